"""Which code is the user's own: what is neither installed nor perfdoc's."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from types import FrameType

_STANDARD = tuple({os.path.join(sysconfig.get_path(key), "") for key in ("stdlib", "platstdlib")})
_LIBRARIES = ("site-packages", "dist-packages")
_INSTALLED = tuple(
    os.path.join(path, "")
    for path in {*(sysconfig.get_paths().get(key, "") for key in ("stdlib", "platstdlib", "purelib", "platlib"))}
    if path
)
GUARD = "perfdoc/inject/guard/"
"""Where the guard of the script's files lies, as :func:`own_name` says it."""
_PERFDOC = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_PROBES = os.environ.get("PERFDOC_PACKAGES", "")
_OURS = (_PERFDOC, *(os.path.join(entry.split("=", 1)[1], "") for entry in _PROBES.split(os.pathsep) if "=" in entry))


@functools.lru_cache(maxsize=8192)
def is_users(filename: str) -> bool:
    """Whether a code object's file belongs to the user's own project."""
    if filename.startswith("<") or any(name in filename for name in _LIBRARIES):
        return False
    path = os.path.abspath(filename)
    return not is_ours(filename) and not path.startswith(_INSTALLED) and not _is_installed_on_path(path)


def _is_installed_on_path(path: str) -> bool:
    """Whether a file belongs to a package that was installed into a folder on sys.path (``pip install --target``)."""
    for entry in sys.path:
        if entry and path.startswith(os.path.join(os.path.abspath(entry), "")):
            name = os.path.relpath(path, os.path.abspath(entry)).split(os.sep)[0]
            if name.removesuffix(".py") in _installed_in(os.path.abspath(entry)):
                return True
    return False


@functools.lru_cache(maxsize=64)
def _installed_in(folder: str) -> frozenset[str]:
    """Names of the packages and modules that installers' records say were put into a folder."""
    found: set[str] = set()
    try:
        records = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".dist-info")]
    except OSError:
        return frozenset()
    for record in records:
        try:
            with open(os.path.join(record, "RECORD"), encoding="utf-8") as lines:
                found |= {line.split("/", 1)[0].split(",", 1)[0].removesuffix(".py") for line in lines}
        except (OSError, ValueError):
            continue
    return frozenset(name for name in found if not name.endswith(".dist-info"))


def is_ours(filename: str) -> bool:
    """Whether a code object's file belongs to perfdoc or to a probe package."""
    return os.path.abspath(filename).startswith(_OURS)


def is_standard(filename: str) -> bool:
    """Whether a code object's file belongs to Python's standard library."""
    if filename.startswith("<frozen"):
        return True
    return filename.startswith(_STANDARD) and not any(name in filename for name in _LIBRARIES)


def own_name(filename: str) -> str:
    """A file of perfdoc's or of a probe package, from its package on: ``perfdoc/inject/startup.py``."""
    folder = next(folder for folder in _OURS if os.path.abspath(filename).startswith(folder))
    return os.path.relpath(os.path.abspath(filename), os.path.dirname(os.path.dirname(folder))).replace(os.sep, "/")


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
