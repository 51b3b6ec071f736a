"""Opening files: ``open``, ``io.open`` and ``os.open`` read and write where the overlay says."""

from __future__ import annotations

import builtins
import errno
import functools
import os
from collections.abc import Callable
from typing import Any

from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import failure, is_folder, real_open

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TEMPORARY = getattr(os, "O_TMPFILE", 0)
original_open = builtins.open


def replacements(overlay: Overlay) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The system's functions and what stands in for them."""
    return {original_open: _open(overlay), real_open: _descriptor(overlay)}


def _open(overlay: Overlay) -> Callable[..., Any]:
    @functools.wraps(original_open)
    def guarded_open(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:
        more = (mode, buffering, encoding, errors, newline, closefd)
        if isinstance(file, int) or opener is not None or not isinstance(mode, str) or overlay.idle():
            return original_open(file, *more, opener)
        if "w" in mode or "a" in mode or "x" in mode or "+" in mode:
            if "r" in mode:
                overlay.place(file)  # must be there
            place = overlay.writing(file, "w" not in mode, "x" in mode)
            if "x" in mode and place is not file:
                more = (mode.replace("x", "w"), *more[1:])
        else:
            place = overlay.place(file)
        if place is file:
            return original_open(file, *more)
        with overlay.at_work():  # the file's name stays what the script called it
            return original_open(file, *more, lambda _, flags: named(real_open, file, place, flags | os.O_CLOEXEC, 0o666))

    return guarded_open


def named(function: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function; an error of it names the file as the script does."""
    try:
        return function(*args, **kwargs)
    except OSError as error:
        error.filename = os.fspath(file) if isinstance(file, os.PathLike) else file
        raise


def _descriptor(overlay: Overlay) -> Callable[..., Any]:
    @functools.wraps(real_open)
    def guarded_descriptor(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if overlay.idle() or isinstance(path, int):
            return real_open(path, flags, mode, dir_fd=dir_fd)
        said = path
        if dir_fd is not None:
            path = at(overlay, path, dir_fd)
        if TEMPORARY and flags & TEMPORARY == TEMPORARY:
            folder = overlay.view(path)
            return real_open(overlay.copy_up(folder) if overlay.guarded(folder) and is_folder(folder) else path, flags, mode)
        if not flags & WRITES:
            return int(named(real_open, said, overlay.place(path, not flags & os.O_NOFOLLOW), flags, mode))
        if not flags & os.O_CREAT:
            overlay.place(path)
        elif flags & os.O_DIRECTORY:
            raise failure(errno.EINVAL, said)
        place = overlay.writing(path, not flags & os.O_TRUNC, bool(flags & os.O_EXCL and flags & os.O_CREAT))
        return int(named(real_open, said, place, flags & ~(os.O_EXCL if place is not path else 0), mode))

    return guarded_descriptor


def at(overlay: Overlay, path: Any, dir_fd: int) -> Any:
    """The path that a name relative to an open folder means to the script."""
    name = os.fsdecode(path)
    if name.startswith("/"):
        return path
    with overlay.at_work():
        folder = os.readlink(f"/proc/self/fd/{dir_fd}")
    return os.path.join(overlay.as_seen(folder), name)
