"""Which code is the user's own: what is neither installed nor perfdoc's."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType

_INSTALLED = tuple(
    os.path.join(path, "")
    for path in {*(sysconfig.get_paths().get(key, "") for key in ("stdlib", "platstdlib", "purelib", "platlib"))}
    if path
)
_PERFDOC = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_PROBES = os.environ.get("PERFDOC_PACKAGES", "")
_OURS = (_PERFDOC, *(os.path.join(entry.split("=", 1)[1], "") for entry in _PROBES.split(os.pathsep) if "=" in entry))


def is_users(filename: str) -> bool:
    """Whether a code object's file belongs to the user's own project."""
    if filename.startswith("<") or "site-packages" in filename or "dist-packages" in filename:
        return False
    return not is_ours(filename) and not os.path.abspath(filename).startswith(_INSTALLED)


def is_ours(filename: str) -> bool:
    """Whether a code object's file belongs to perfdoc or to a probe package."""
    return os.path.abspath(filename).startswith(_OURS)


def calling_site(depth: int = 2) -> str:
    """``file:line`` of the innermost frame of the user's code above the caller, relative to the working directory.

    An empty string where the whole stack is library code.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return site_of(frame)
        frame = frame.f_back
    return ""


def calling_users(depth: int = 2) -> bool:
    """Whether the caller at that depth is the user's code itself, not a library that it called."""
    return is_users(sys._getframe(depth).f_code.co_filename)


def site_of(frame: FrameType) -> str:
    """``file:line`` of a frame, relative to the working directory where it lies inside."""
    filename = frame.f_code.co_filename
    try:
        shown = os.path.relpath(filename)
    except (ValueError, OSError):
        shown = filename
    return f"{filename if shown.startswith('..') else shown}:{frame.f_lineno}"
