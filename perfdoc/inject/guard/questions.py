"""Questions about files are answered for what the script sees; what touches a file's metadata touches the overlay's copy."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from perfdoc.inject.guard.opening import at, named
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import exists, is_folder, real_chdir, real_getcwd


def replacements(overlay: Overlay) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The system's functions and what stands in for them."""
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    for name in ("stat", "listxattr", "getxattr", "statvfs", "pathconf"):
        if hasattr(os, name):
            found[getattr(os, name)] = _asking(overlay, getattr(os, name), True)
    for name in ("lstat", "readlink"):
        found[getattr(os, name)] = _asking(overlay, getattr(os, name), False)
    for name in ("chmod", "utime", "truncate", "setxattr", "removexattr", "chown", "lchown"):
        if hasattr(os, name):
            found[getattr(os, name)] = _touching(overlay, getattr(os, name), name != "lchown")
    found[os.access] = _access(overlay)
    found[os.getcwd] = functools.wraps(os.getcwd)(lambda: overlay.getcwd())
    found[os.getcwdb] = functools.wraps(os.getcwdb)(lambda: os.fsencode(overlay.getcwd()))
    found[os.chdir] = _chdir(overlay)
    return found


def _asking(overlay: Overlay, original: Callable[..., Any], follow: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def asked(path: Any, *args: Any, **kwargs: Any) -> Any:
        if overlay.idle() or isinstance(path, int):
            return original(path, *args, **kwargs)
        seen = path
        if kwargs.get("dir_fd") is not None:
            seen = at(overlay, path, kwargs["dir_fd"])
        place = overlay.place(seen, follow and kwargs.get("follow_symlinks", True))
        if place is path:
            return original(path, *args, **kwargs)
        kwargs.pop("dir_fd", None)  # the folder that is open may be one of two that are seen as one
        found = named(original, path, place, *args, **kwargs)
        return os.fsencode(found) if isinstance(path, bytes) and isinstance(found, str) else found

    return asked


def _access(overlay: Overlay) -> Callable[..., Any]:
    access = os.access

    @functools.wraps(access)
    def accessible(path: Any, mode: int, *, dir_fd: int | None = None, **kwargs: Any) -> bool:
        if overlay.idle() or isinstance(path, int):
            return access(path, mode, dir_fd=dir_fd, **kwargs)
        try:
            return access(overlay.place(path if dir_fd is None else at(overlay, path, dir_fd)), mode, **kwargs)
        except OSError:
            return False

    return accessible


def _touching(overlay: Overlay, original: Callable[..., Any], follow: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def touched(path: Any, *args: Any, **kwargs: Any) -> Any:
        if overlay.idle() or isinstance(path, int):
            return original(path, *args, **kwargs)
        seen = path if kwargs.get("dir_fd") is None else at(overlay, path, kwargs["dir_fd"])
        real = overlay.place(seen, follow and kwargs.get("follow_symlinks", True))
        view = overlay.view(seen, follow and kwargs.get("follow_symlinks", True))
        kwargs.pop("dir_fd", None)
        if exists(overlay.upper(view)):
            if is_folder(overlay.upper(view)):
                overlay.touched(view)
            return named(original, path, overlay.upper(view), *args, **kwargs)
        if not overlay.guarded(view) or overlay.below(view) is None:
            return named(original, path, real, *args, **kwargs)
        return named(original, path, overlay.copy_up(view), *args, **kwargs)

    return touched


def _chdir(overlay: Overlay) -> Callable[..., Any]:
    @functools.wraps(real_chdir)
    def chdir(path: Any) -> None:
        if overlay.idle() or isinstance(path, int):
            real_chdir(path)
            return
        seen = overlay.view(path)
        found = overlay.effective(seen)
        if found is None:
            raise overlay.absent(seen, path)
        # The user's own folder where there is one: compiled code reads relative paths there.
        named(real_chdir, path, seen if is_folder(found) and is_folder(overlay.below(seen)) else found)
        overlay.moved_to(real_getcwd())

    return chdir
