"""The system's own calls for files, past everything that the guard replaces, and the errors that the system raises."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import Any

MOST_NEIGHBOURS = 5000
"""Maximum number of entries of a folder that are searched for links to a file that has changed."""

real_lstat, real_stat, real_remove, real_mkdir, real_rename = os.lstat, os.stat, os.remove, os.mkdir, os.rename
real_readlink, real_listdir, real_rmtree, real_getcwd = os.readlink, os.listdir, shutil.rmtree, os.getcwd
real_open, real_utime, real_chmod, real_symlink, real_link = os.open, os.utime, os.chmod, os.symlink, os.link
real_access, real_scandir, real_rmdir, real_chdir = os.access, os.scandir, os.rmdir, os.chdir
"""The system's own functions, from before any of them was replaced."""


def exists(place: str) -> bool:
    """Whether anything is at a real place, links included."""
    try:
        real_lstat(place)
    except (OSError, ValueError):
        return False
    return True


def is_folder(place: str | None) -> bool:
    """Whether a real place is a folder itself, no link to one."""
    try:
        return place is not None and stat.S_ISDIR(real_lstat(place).st_mode)
    except (OSError, ValueError):
        return False


def is_link(place: str | None) -> bool:
    """Whether a real place is a symbolic link."""
    try:
        return place is not None and stat.S_ISLNK(real_lstat(place).st_mode)
    except (OSError, ValueError):
        return False


def failure(number: int, *files: Any) -> OSError:
    """The OSError of an errno, of the subclass that Python has for it. ``files``: one or two, as the script named them."""
    named = [os.fspath(file) if isinstance(file, os.PathLike) else file for file in files]
    return OSError(number, os.strerror(number), *((named[0], None, named[1]) if len(named) == 2 else named))


def missing(*files: Any) -> OSError:
    """What the system raises where there is no such file."""
    return failure(errno.ENOENT, *files)


def links_beside(path: str) -> list[str]:
    """Names of the symbolic links in the folder of ``path``."""
    found = []
    try:
        with real_scandir(os.path.dirname(path)) as entries:
            for count, entry in enumerate(entries):
                if count > MOST_NEIGHBOURS:
                    break
                if entry.is_symlink():
                    found.append(entry.name)
    except OSError:
        pass
    return found
