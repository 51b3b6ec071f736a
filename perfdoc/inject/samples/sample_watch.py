"""Watches single samples being made: where the time of the user's own ``__getitem__`` goes, and which files it decodes.

Nothing of the data set is edited. While a watch is open, the entry points of image libraries that are imported, and the
members of composed transforms, are wrapped; closing it puts everything back. Time is self time: decoding inside of a
transform is decoding. It is per thread of one process, the one that calls the data set.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from perfdoc.core.user_code import is_users

READ, DECODE, TRANSFORM, CONVERT, OTHER = "read", "decode", "transform", "convert", "other"
"""Parts of a sample: reading files; decoding what was read; transforms, by name; to tensor and between colour modes; Python."""

CONVERSIONS = frozenset({
    "ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "ToTensorV2", "ToPureTensor", "ToImageTensor",
})
"""Transforms of torchvision and albumentations that only change the type."""

POINTS = (
    (READ, "PIL.Image", "open"),
    (DECODE, "PIL.ImageFile", "ImageFile.load"),
    (CONVERT, "PIL.Image", "Image.convert"),
    (TRANSFORM, "PIL.Image", "Image.resize"),
    (TRANSFORM, "PIL.Image", "Image.crop"),
    (TRANSFORM, "PIL.Image", "Image.rotate"),
    (TRANSFORM, "PIL.Image", "Image.transpose"),
    (TRANSFORM, "PIL.Image", "Image.thumbnail"),
    (DECODE, "cv2", "imread"),
    (DECODE, "cv2", "imdecode"),
    (CONVERT, "cv2", "cvtColor"),
    (TRANSFORM, "cv2", "resize"),
    (READ, "torchvision.io", "read_file"),
    (DECODE, "torchvision.io", "read_image"),
    (DECODE, "torchvision.io", "decode_image"),
    (DECODE, "torchvision.io", "decode_jpeg"),
    (DECODE, "torchvision.io", "decode_png"),
    (DECODE, "simplejpeg", "decode_jpeg"),
    (DECODE, "turbojpeg", "TurboJPEG.decode"),
    (DECODE, "imageio", "imread"),
    (DECODE, "imageio.v2", "imread"),
    (DECODE, "imageio.v3", "imread"),
    (DECODE, "skimage.io", "imread"),
    (DECODE, "torchaudio", "load"),
    (DECODE, "soundfile", "read"),
    (READ, "numpy", "load"),
    (READ, "datasets.formatting", "query_table"),
    (READ, "datasets.arrow_dataset", "query_table"),
    (READ, "h5py", "Dataset.__getitem__"),
    (CONVERT, "torch", "from_numpy"),
    (CONVERT, "torch", "tensor"),
    (CONVERT, "torch", "as_tensor"),
)
"""What is timed: part, module, name in it."""


@dataclass(frozen=True)
class Source:
    """An encoded picture that a sample was made from: a file, or bytes that were read from elsewhere."""

    path: str | None
    data: bytes | None = None

    def read(self) -> bytes:
        """The encoded bytes."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        with open(self.path, "rb") as f:
            return f.read()


@dataclass
class Sample:
    """What was seen of one sample; seconds by (part, name)."""

    index: Any
    seconds: float = 0.0
    parts: dict[tuple[str, str], float] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)
    """Pixels of every picture that was decoded."""
    copied: dict[str, float] = field(default_factory=dict)
    """Seconds in ``torch.tensor`` of an array, by ``file:line``: a copy that ``torch.from_numpy`` would not make."""


class SampleWatch:
    """``with SampleWatch(dataset) as watch: value, seen = watch.sample(index)``."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._undo: list[Callable[[], None]] = []
        self._stack: list[list[Any]] = []
        self._seen: Sample | None = None
        self._thread = 0
        self._unchanged = Unchanged(dataset)

    def __enter__(self) -> SampleWatch:
        self._unchanged.__enter__()
        try:
            for part, module_name, path in POINTS:
                module = sys.modules.get(module_name)
                if module is not None:
                    self._wrap(part, module, module_name, path)
            self._wrap_compositions()
            self._wrap_albumentations()
            self._wrap_single_transforms()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        while self._undo:
            self._undo.pop()()
        self._unchanged.__exit__()

    def sample(self, index: Any) -> tuple[Any, Sample]:
        """Make sample ``index`` and tell what was seen. Raises what the data set raises."""
        seen = self._seen = Sample(index)
        self._thread = threading.get_ident()
        self._stack.clear()
        start = perf_counter()
        try:
            value = self.dataset[index]
        finally:
            seen.seconds = perf_counter() - start
            self._seen = None
        known = sum(seen.parts.values())
        seen.parts[OTHER, "Python"] = max(0.0, seen.seconds - known)
        return value, seen

    # -- timing

    @contextlib.contextmanager
    def _timed(self, part: str, name: str) -> Iterator[None]:
        start = perf_counter()
        self._stack.append([part, 0.0])
        try:
            yield
        finally:
            elapsed = perf_counter() - start
            _, inner = self._stack.pop()
            if self._stack:
                self._stack[-1][1] += elapsed
            if self._seen is not None:
                key = (part, name)
                self._seen.parts[key] = self._seen.parts.get(key, 0.0) + max(0.0, elapsed - inner)

    def _watching(self) -> bool:
        """Whether the calling thread makes the sample that is watched; threads of the data set's own are let through."""
        return self._seen is not None and threading.get_ident() == self._thread

    def _inside_transform(self) -> bool:
        return any(part in (TRANSFORM, CONVERT) for part, _ in self._stack)

    # -- wrapping

    def _wrap(self, part: str, module: Any, module_name: str, path: str) -> None:
        *holders, name = path.split(".")
        place = module
        for holder in holders:
            place = getattr(place, holder, None)
        original = getattr(place, name, None)
        if original is None:
            return
        label = f"{module_name.split('.')[0]} {name}" if module_name != "PIL.ImageFile" else "PIL"
        watch = self

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not watch._watching() or (part in (TRANSFORM, CONVERT) and watch._inside_transform()):
                return original(*args, **kwargs)
            watch._note(module_name, name, args, kwargs)
            # PIL loads lazily: where nothing is left to load, nothing is decoded.
            fresh = name != "load" or bool(getattr(args[0], "tile", True))
            start = perf_counter()
            with watch._timed(part, label):
                result = original(*args, **kwargs)
            if part == DECODE and fresh:
                watch._decoded(args[0] if name == "load" else result)
            if module_name == "torch" and name == "tensor" and args and type(args[0]).__name__ == "ndarray":
                watch._copied(perf_counter() - start)
            return result

        own = name in vars(place)
        setattr(place, name, timed)
        self._undo.append(lambda: setattr(place, name, original) if own else delattr(place, name))
        if not holders:
            self._replace_imported(original, timed)

    def _replace_imported(self, original: Any, timed: Any) -> None:
        """``from torchvision.io import read_image`` in the user's modules holds the function itself."""
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if module is None or not file or not is_users(file):
                continue
            for name, value in list(vars(module).items()):
                if value is original:
                    setattr(module, name, timed)
                    self._undo.append(functools.partial(setattr, module, name, original))

    def _note(self, module_name: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what is about to be decoded."""
        assert self._seen is not None
        first: Any = args[0] if args else next(iter(kwargs.values()), None)
        source = None
        if (module_name, name) == ("PIL.Image", "open") or name in ("imread", "read_image", "read_file"):
            source = source_of(first)
        elif name in ("imdecode", "decode_jpeg", "decode_png", "decode_image", "decode"):
            data = args[1] if name == "decode" and len(args) > 1 else first
            with contextlib.suppress(TypeError, ValueError, AttributeError, RuntimeError):
                source = Source(None, bytes(memoryview(data.numpy() if hasattr(data, "numpy") else data)))
        if source is not None and not any(known.path and known.path == source.path for known in self._seen.sources):
            self._seen.sources.append(source)

    def _decoded(self, picture: Any) -> None:
        assert self._seen is not None
        size = getattr(picture, "size", None)
        if isinstance(size, tuple) and len(size) == 2:  # PIL: width and height
            self._seen.decoded.append(size[0] * size[1])
            return
        shape = getattr(picture, "shape", None)
        if shape is not None and len(shape) == 3:
            channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
            self._seen.decoded.append(int(shape[1] * shape[2] if channels_first else shape[0] * shape[1]))

    def _copied(self, seconds: float) -> None:
        assert self._seen is not None
        frame: Any = sys._getframe(2)
        while frame is not None and not is_users(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            site = f"{os.path.relpath(frame.f_code.co_filename)}:{frame.f_lineno}"
            self._seen.copied[site] = self._seen.copied.get(site, 0.0) + seconds

    def _wrap_compositions(self) -> None:
        """``Compose`` of torchvision, old and new: its members are timed by their class's name."""
        for module_name, method in (("torchvision.transforms.transforms", "__call__"),
                                    ("torchvision.transforms.v2._container", "forward")):
            cls = getattr(sys.modules.get(module_name), "Compose", None)
            original = getattr(cls, method, None)
            if cls is None or original is None:
                continue

            @functools.wraps(original)
            def called(compose: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
                if not self._watching() or self._inside_transform():
                    return _original(compose, *args, **kwargs)
                members = compose.transforms
                compose.transforms = [self._member(member) for member in members]
                try:
                    return _original(compose, *args, **kwargs)
                finally:
                    compose.transforms = members

            setattr(cls, method, called)
            self._undo.append(functools.partial(setattr, cls, method, original))

    def _member(self, member: Any) -> Callable[..., Any]:
        if type(member).__name__ == "Compose":
            return member  # type: ignore[no-any-return]
        name = type(member).__name__ if not hasattr(member, "__qualname__") else member.__qualname__
        part = CONVERT if name in CONVERSIONS else TRANSFORM

        def called(*args: Any, **kwargs: Any) -> Any:
            if not self._watching():
                return member(*args, **kwargs)
            with self._timed(part, name):
                return member(*args, **kwargs)

        return called

    def _wrap_albumentations(self) -> None:
        cls = getattr(sys.modules.get("albumentations.core.transforms_interface"), "BasicTransform", None)
        if cls is None:
            return
        original = cls.__call__

        def called(transform: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._watching() or self._inside_transform():
                return original(transform, *args, **kwargs)
            name = type(transform).__name__
            with self._timed(CONVERT if name in CONVERSIONS else TRANSFORM, name):
                return original(transform, *args, **kwargs)

        cls.__call__ = called
        self._undo.append(functools.partial(setattr, cls, "__call__", original))

    def _wrap_single_transforms(self) -> None:
        """A data set's ``transform`` that is no composition."""
        for holder in nested(self.dataset):
            for name in ("transform", "target_transform", "augment", "preprocess"):
                member = vars(holder).get(name)
                kind = type(member).__name__
                if not callable(member) or kind == "Compose" or type(member).__module__.startswith("albumentations"):
                    continue
                vars(holder)[name] = self._member(member)
                self._undo.append(functools.partial(vars(holder).__setitem__, name, member))


class Unchanged:
    """Puts back what making samples in this process changed of a data set: files and connections that it opens at first use.

    Left open they would be shared by all workers that are forked later, which read rubbish then. Attributes are compared by
    identity, those of wrapped data sets too; what is filled in place (a cache) stays.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._before: list[tuple[Any, dict[str, Any]]] = []

    def __enter__(self) -> Unchanged:
        self._before = [(holder, dict(vars(holder))) for holder in nested(self._dataset)]
        return self

    def __exit__(self, *exc: object) -> None:
        for holder, before in self._before:
            now = vars(holder)
            for name in [n for n, value in now.items() if n not in before or value is not before[n]]:
                opened = now[name]
                if name in before:
                    now[name] = before[name]
                else:
                    del now[name]
                close = getattr(opened, "close", None)
                if callable(close):
                    with contextlib.suppress(Exception):  # the user's object, closed as well as it can be
                        close()


def nested(dataset: Any, depth: int = 3) -> Iterator[Any]:
    """The data set and those it wraps (Subset, a split of the user's own)."""
    if not hasattr(dataset, "__dict__"):
        return
    yield dataset
    if depth:
        for value in list(vars(dataset).values()):
            if hasattr(value, "__getitem__") and hasattr(value, "__len__") and hasattr(value, "__dict__"):
                yield from nested(value, depth - 1)


def source_of(given: Any) -> Source | None:
    """The picture that an opener was given: a path, an open file, or bytes in memory."""
    if isinstance(given, str | os.PathLike):
        return Source(os.path.abspath(os.fspath(given)))
    if isinstance(given, io.BytesIO):
        return Source(None, given.getvalue())
    name = getattr(given, "name", None)
    if isinstance(name, str) and os.path.isfile(name):
        return Source(os.path.abspath(name))
    return None
