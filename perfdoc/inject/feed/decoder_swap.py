"""Another decoder behind the calls that the user's data set makes: ``PIL.Image.open``, ``cv2.imread``, ``torchvision.io``.

Only colour JPEGs are decoded otherwise; whatever else a call meets goes to the library that it was made for. What comes out is
of the same kind as before: a PIL image, a BGR array, a tensor with channels first.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from torch.utils.data import get_worker_info

from perfdoc.core.decoder import JPEG_START, Decoder
from perfdoc.core.user_code import is_users

ORIENTATION = 0x0112
"""EXIF tag (Exif 2.32, 4.6.4)."""


def exif_orientation(data: bytes) -> int:
    """The orientation that a JPEG's EXIF block asks for; 1 (as stored) where there is none."""
    start = data.find(b"Exif\x00\x00", 0, 65536)
    if start < 0:
        return 1
    block = data[start + 6 : start + 6 + 65536]
    order: Any = "little" if block[:2] == b"II" else "big"
    place = int.from_bytes(block[4:8], order)
    for number in range(int.from_bytes(block[place : place + 2], order)):
        entry = block[place + 2 + 12 * number : place + 14 + 12 * number]
        if int.from_bytes(entry[:2], order) == ORIENTATION:
            return int.from_bytes(entry[8:10], order) or 1
    return 1


class DecoderSwap:
    """Swaps in the decoder that ``module`` defines; with ``side``, scaled to at least that many pixels on either side.

    A picture that the swap cannot decode is left to the library that was called.
    """

    def __init__(self, module: str, side: int = 0) -> None:
        self.module = module
        self.side = side
        self.decoded = 0
        """Pictures that were decoded otherwise so far, in this process."""
        self._patches: list[tuple[Any, str, Any, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "side": self.side, "decoded": 0, "_patches": None}

    def enter(self) -> None:
        """Put the decoder in force in this process. The first time it is imported, with one thread as in a worker."""
        if self._patches is None:
            self._patches = self._made()
        for place, name, _, new in self._patches:
            setattr(place, name, new)

    def leave(self) -> None:
        """Give every call back to its library."""
        for place, name, original, _ in self._patches or ():
            setattr(place, name, original)

    def _made(self) -> list[tuple[Any, str, Any, Any]]:
        members = vars(importlib.import_module(self.module)).values()
        decoder: Decoder = next(
            m for m in members if isinstance(m, type) and issubclass(m, Decoder) and m.__module__ == self.module
        )()
        # In the training process its threads are the model's too: only a worker has a library for itself.
        decoder.load(single_thread=get_worker_info() is not None)
        patches: list[tuple[Any, str, Any, Any]] = []
        for module_name, name, make in (
            ("PIL.Image", "open", self._pil), ("cv2", "imread", self._cv2), ("torchvision.io", "read_image", self._tensor),
        ):
            module = sys.modules.get(module_name)
            original = getattr(module, name, None)
            if original is not None:
                new = make(decoder, original)
                patches += [(place, held, original, new) for place, held in holders(module, name, original)]
        return patches

    def _decoded(self, decoder: Decoder, data: bytes) -> Any:
        self.decoded += 1
        return decoder.decode_small(data, self.side) if self.side else decoder.decode(data)

    def _pil(self, decoder: Decoder, original: Callable[..., Any]) -> Callable[..., Any]:
        from PIL import Image

        def opened(fp: Any, *args: Any, **kwargs: Any) -> Any:
            image = original(fp, *args, **kwargs)  # reads the header alone
            if image.format != "JPEG" or image.mode != "RGB":
                return image
            if self.side and decoder.slug == "pil_draft":
                share = self.side / min(image.size)
                if share < 1:
                    self.decoded += 1
                    image.draft("RGB", (round(image.size[0] * share), round(image.size[1] * share)))
                return image
            data = _bytes_of(fp, image)
            if data is None:
                return image
            picture = Image.fromarray(self._decoded(decoder, data))
            picture.info, picture.format = image.info, image.format
            picture.filename = getattr(image, "filename", "")
            return picture

        return opened

    def _cv2(self, decoder: Decoder, original: Callable[..., Any]) -> Callable[..., Any]:
        def imread(filename: Any, *args: Any, **kwargs: Any) -> Any:
            if args or kwargs:  # grey, unchanged depth...: other flags than the usual
                return original(filename, *args, **kwargs)
            data = _file(filename)
            if data is None or not data.startswith(JPEG_START) or exif_orientation(data) != 1:
                return original(filename)
            return self._decoded(decoder, data)[:, :, ::-1].copy()

        return imread

    def _tensor(self, decoder: Decoder, original: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        def read_image(path: Any, *args: Any, **kwargs: Any) -> Any:
            data = None if args or kwargs else _file(path)
            if data is None or not data.startswith(JPEG_START):
                return original(path, *args, **kwargs)
            return torch.from_numpy(self._decoded(decoder, data)).permute(2, 0, 1).contiguous()

        return read_image


def holders(module: Any, name: str, original: Any) -> list[tuple[Any, str]]:
    """Where the user's code reaches a function: in its module, and in theirs that imported it by name."""
    found = [(module, name)]
    for other in list(sys.modules.values()):
        file = getattr(other, "__file__", None)
        if other is not None and file and is_users(file):
            found += [(other, held) for held, value in list(vars(other).items()) if value is original]
    return found


def _bytes_of(fp: Any, image: Any) -> bytes | None:
    """The encoded bytes of a picture that PIL has opened and not yet read."""
    if isinstance(fp, str | os.PathLike):
        data = _file(fp)
        image.close()
        return data
    if isinstance(fp, io.IOBase) or hasattr(fp, "seek"):
        fp.seek(0)
        data = fp.read()
        return data if isinstance(data, bytes) and data.startswith(JPEG_START) else None
    return None


def _file(path: Any) -> bytes | None:
    try:
        with open(path, "rb") as f:
            return f.read()
    except (OSError, TypeError, ValueError):
        return None  # the library that was meant says what is wrong
