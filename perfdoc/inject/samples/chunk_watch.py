"""Watches what samples read of chunked arrays (h5py, zarr): how much is unpacked for what is used, and files opened for it.

A chunk is the smallest piece that such a file can be read in: for one row of it, all of it is read and unpacked. While a watch
is open, the arrays' ``__getitem__`` and the opening of files are wrapped; closing it puts everything back.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from perfdoc.core.user_code import calling_site

ARRAYS = (("h5py", "Dataset"), ("zarr", "Array"))
"""Modules and classes whose items are watched; only those that the script has imported."""


@dataclass(frozen=True)
class Read:
    """One read of a chunked array."""

    site: str
    """``file:line`` of the user's code."""
    library: str
    name: str
    """Of the array in its file."""
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    selected: tuple[int, ...]
    """How many entries of each dimension were asked for."""
    compression: str
    unpacked: int
    """Bytes of all chunks that were touched."""
    used: int
    """Bytes that were asked for."""
    total: int
    """Bytes of the whole array, unpacked."""
    seconds: float


@dataclass(frozen=True)
class Opening:
    """One opening of a file."""

    site: str
    seconds: float


class ChunkWatch:
    """``with ChunkWatch() as watch: dataset[3]; watch.take()``: the reads and openings since the last time."""

    def __init__(self) -> None:
        self._reads: list[Read] = []
        self._opened: list[Opening] = []
        self._undo: list[Callable[[], None]] = []
        self._thread = threading.get_ident()

    @staticmethod
    def libraries() -> list[str]:
        """Those that the script has imported."""
        return [module for module, _ in ARRAYS if module in sys.modules]

    def __enter__(self) -> ChunkWatch:
        try:
            for module_name, class_name in ARRAYS:
                cls: Any = getattr(sys.modules.get(module_name), class_name, None)
                if cls is not None:
                    self._wrap(cls, "__getitem__", functools.partial(self._read, module_name))
            file: Any = getattr(sys.modules.get("h5py"), "File", None)
            if file is not None:
                self._wrap(file, "__init__", self._open)
        except BaseException:  # raised again: Python does not call __exit__ where __enter__ fails, and nothing may stay wrapped
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        while self._undo:
            self._undo.pop()()

    def take(self) -> tuple[list[Read], list[Opening]]:
        """What was seen since it was asked last."""
        seen = self._reads, self._opened
        self._reads, self._opened = [], []
        return seen

    def _wrap(self, cls: type, name: str, noted: Callable[..., None]) -> None:
        own, original = name in vars(cls), getattr(cls, name)
        watch = self

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != watch._thread:
                return original(*args, **kwargs)
            start = perf_counter()
            result = original(*args, **kwargs)
            noted(perf_counter() - start, calling_site(2), *args)
            return result

        setattr(cls, name, timed)
        self._undo.append(functools.partial(setattr, cls, name, original) if own else functools.partial(delattr, cls, name))

    def _open(self, seconds: float, site: str, file: Any, name: Any = None, *rest: Any) -> None:
        if isinstance(name, str | bytes | os.PathLike) or hasattr(name, "read"):  # h5py wraps files that are open already, too
            self._opened.append(Opening(site, seconds))

    def _read(self, library: str, seconds: float, site: str, array: Any, selection: Any = (), *rest: Any) -> None:
        chunk, shape = getattr(array, "chunks", None), tuple(array.shape)
        item = int(getattr(array.dtype, "itemsize", 0))
        if not chunk or not shape or not item:
            return
        chunk = tuple(int(size) for size in chunk)
        asked = selected(selection, shape, chunk)
        if asked is None:
            return
        self._reads.append(Read(
            site, library, str(getattr(array, "name", "") or ""), shape, chunk, tuple(count for count, _ in asked),
            _compression(array), math.prod(touched for _, touched in asked) * math.prod(chunk) * item,
            math.prod(count for count, _ in asked) * item, math.prod(shape) * item, seconds,
        ))


def _compression(array: Any) -> str:
    """``gzip``, ``BloscCodec``; empty where the chunks are stored as they are."""
    named = getattr(array, "compression", None)
    if isinstance(named, str):
        return named
    try:
        codecs = getattr(array, "compressors", None) or ()
    except (TypeError, ValueError, NotImplementedError):  # properties of zarr that a format does not have
        return ""
    return ", ".join(type(codec).__name__ for codec in codecs)


def selected(selection: Any, shape: Sequence[int], chunk: Sequence[int]) -> list[tuple[int, int]] | None:
    """For each dimension how many entries a selection asks for, and how many chunks they lie in; None where it is not clear.

    Integers, slices, and lists of integers; dimensions that are not named are read whole.
    """
    parts = list(selection) if isinstance(selection, tuple) else [selection]
    if any(part is Ellipsis for part in parts):
        place = next(place for place, part in enumerate(parts) if part is Ellipsis)
        parts[place:place + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    parts += [slice(None)] * (len(shape) - len(parts))
    if len(parts) != len(shape):
        return None
    found = [_along(part, size, width) for part, size, width in zip(parts, shape, chunk, strict=True)]
    return None if None in found else [asked for asked in found if asked is not None]


def _along(part: Any, size: int, width: int) -> tuple[int, int] | None:
    """Entries asked for along one dimension, and chunks of ``width`` that they lie in."""
    if isinstance(part, slice):
        places: Any = range(*part.indices(size))
        if abs(places.step) <= width:
            chunks = abs(places[-1] // width - places[0] // width) + 1 if places else 0
            return len(places), chunks
        return len(places), len(places)
    try:
        operator.index(part)
        return 1, 1
    except TypeError:
        pass
    try:
        places = [operator.index(place) for place in part]
    except TypeError:
        return None
    if places and all(isinstance(place, bool) or type(place).__name__ == "bool_" for place in part):
        return None
    return len(places), len({place // width for place in places})
