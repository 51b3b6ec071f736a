"""Files that compiled libraries open by themselves, past Python's ``open``: their functions are led to the overlay's places."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import exists, is_folder
from perfdoc.inject.system.import_hooks import when_imported

MOST_COPIED = 2**28
"""Maximum size in bytes of a database that is copied because it is opened for writing; a larger one is opened for reading."""

READS = {
    "cv2": ("imread",), "torchvision.io": ("read_image", "read_file"), "pyarrow": ("memory_map",),
    "soundfile": ("read", "info"), "torchaudio": ("load", "info"),
    "safetensors": ("safe_open",), "safetensors.torch": ("load_file", "safe_open"),
}
"""Functions that read the file which is their first argument."""
WRITES = {
    "cv2": ("imwrite", "VideoWriter"), "torchvision.io": ("write_video",), "soundfile": ("write",), "torchaudio": ("save",),
}
"""Functions that write it."""


def install(overlay: Overlay) -> None:
    """Lead them to the overlay as soon as their modules are imported."""
    for table, lead in ((READS, _reading), (WRITES, _writing)):
        for name, functions in table.items():
            when_imported(name, functools.partial(_wrap_first, overlay, functions, lead))
    when_imported("tokenizers", functools.partial(_wrap_tokenizers, overlay))
    when_imported("torchvision.io.image", functools.partial(_wrap_torchvision, overlay))
    when_imported("torchvision.io", functools.partial(_wrap_torchvision, overlay))
    when_imported("sqlite3", functools.partial(_wrap_sqlite, overlay))
    when_imported("dbm.gnu", functools.partial(_wrap_dbm, overlay))
    when_imported("h5py", functools.partial(_wrap_h5py, overlay))
    when_imported("lmdb", functools.partial(_wrap_lmdb, overlay))


def _reading(overlay: Overlay, file: Any) -> Any:
    return overlay.place(file) if isinstance(file, str | bytes | os.PathLike) else file


def _writing(overlay: Overlay, file: Any) -> Any:
    return overlay.writing(file, False) if isinstance(file, str | bytes | os.PathLike) else file


def _wrap_first(
    overlay: Overlay, functions: tuple[str, ...], lead: Callable[[Overlay, Any], Any], module: ModuleType
) -> None:
    for name in functions:
        original: Any = getattr(module, name, None)
        if original is None:
            continue

        def led(file: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            return _original(lead(overlay, file), *args, **kwargs)

        setattr(module, name, functools.wraps(original)(led) if hasattr(original, "__name__") else led)


def _wrap_torchvision(overlay: Overlay, module: ModuleType) -> None:
    """Pictures that are written: the file is the second argument, or the first of ``write_file``."""
    for name, at in (("write_png", 1), ("write_jpeg", 1), ("write_file", 0)):
        original: Any = getattr(module, name, None)
        if original is None or getattr(original, "_perfdoc", False):
            continue

        def led(*args: Any, _original: Any = original, _at: int = at, **kwargs: Any) -> Any:
            given = list(args)
            if len(given) > _at:
                given[_at] = _writing(overlay, given[_at])
            elif "filename" in kwargs:
                kwargs["filename"] = _writing(overlay, kwargs["filename"])
            return _original(*given, **kwargs)

        led._perfdoc = True  # type: ignore[attr-defined]
        setattr(module, name, functools.wraps(original)(led))


def _wrap_tokenizers(overlay: Overlay, module: ModuleType) -> None:
    """Checkpoints of transformers hold a ``tokenizer.json``, which the library's Rust part writes."""
    tokenizer: Any = module.__dict__["Tokenizer"]
    save, from_file = tokenizer.save, tokenizer.from_file

    @functools.wraps(save)
    def saved(self: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return save(self, overlay.writing(path, False), *args, **kwargs)

    @functools.wraps(from_file)
    def read(path: Any) -> Any:
        return from_file(overlay.place(path))

    tokenizer.save, tokenizer.from_file = saved, staticmethod(read)


def _wrap_sqlite(overlay: Overlay, module: ModuleType) -> None:
    """A database is copied with its journals before it is opened; one in memory is left alone."""
    connect = module.__dict__["connect"]

    @functools.wraps(connect)
    def connected(database: Any, *args: Any, **kwargs: Any) -> Any:
        named = isinstance(database, str | bytes | os.PathLike) and os.fsdecode(database) not in ("", ":memory:")
        if not named:
            return connect(database, *args, **kwargs)
        if not kwargs.get("uri") or not os.fsdecode(database).startswith("file:"):
            return connect(_database(overlay, database), *args, **kwargs)
        from urllib.parse import quote, unquote, urlsplit, urlunsplit

        parts = urlsplit(os.fsdecode(database))
        if not parts.path or "mode=memory" in parts.query or "immutable=1" in parts.query:
            return connect(database, *args, **kwargs)
        file = unquote(parts.path)
        place = overlay.place(file) if "mode=ro" in parts.query else _database(overlay, file)
        return connect(urlunsplit(("file", "", quote(os.fsdecode(place)), parts.query, "")), *args, **kwargs)

    module.__dict__["connect"] = connected
    dbapi = getattr(module, "dbapi2", None)
    if dbapi is not None:
        dbapi.connect = connected


def _database(overlay: Overlay, file: Any) -> Any:
    """Where to open a database for writing."""
    place = overlay.writing(file, True)
    if place is not file:
        view = overlay.view(file)
        for more in ("-journal", "-wal"):
            if overlay.below(view + more) and not exists(overlay.upper(view + more)):
                overlay.copy_up(view + more)
    return place


def _wrap_dbm(overlay: Overlay, module: ModuleType) -> None:
    """What ``shelve`` keeps its values in on most systems."""
    opened = module.__dict__["open"]

    @functools.wraps(opened)
    def led(file: Any, flag: str = "r", *args: Any) -> Any:
        place = overlay.place(file) if flag[:1] == "r" else overlay.writing(file, flag[:1] != "n")
        return opened(place, flag, *args)

    module.__dict__["open"] = led


def _wrap_h5py(overlay: Overlay, module: ModuleType) -> None:
    file: Any = module.__dict__["File"]
    init = file.__init__

    @functools.wraps(init)
    def led(self: Any, name: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
        if isinstance(name, str | bytes | os.PathLike):
            new = mode in ("w-", "x")
            name = overlay.place(name) if mode == "r" else overlay.writing(name, mode != "w" and not new, new)
        init(self, name, mode, *args, **kwargs)

    file.__init__ = led


def _wrap_lmdb(overlay: Overlay, module: ModuleType) -> None:
    """A small environment is copied, a large one opened for reading only: most of these are data sets that are only read."""
    opened = module.__dict__["open"]

    def led(path: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("readonly"):
            return opened(overlay.place(path), *args, **{"lock": False, **kwargs})
        view = overlay.view(path)
        if not overlay.guarded(view):
            return opened(path, *args, **kwargs)
        if overlay.effective(view) is None:
            return opened(overlay.make(view, "folder"), *args, **kwargs)
        files = [os.path.join(view, name) for name in overlay.entries(view)] if is_folder(overlay.effective(view)) else [view]
        if sum(os.stat(file).st_size for file in files) > MOST_COPIED:
            return opened(overlay.place(path), *args, **{**kwargs, "readonly": True, "lock": False})
        for file in files:
            if not exists(overlay.upper(file)):
                overlay.copy_up(file)
        return opened(overlay.upper(view), *args, **kwargs)

    module.__dict__["open"] = functools.wraps(opened)(led) if hasattr(opened, "__name__") else led
