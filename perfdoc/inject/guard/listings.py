"""Listings of folders show what the script sees: the user's own entries, its new ones, none that it removed."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from perfdoc.inject.guard.opening import named
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import failure, is_folder, missing, real_listdir, real_lstat, real_scandir


class Entry:
    """An entry of a folder of the overlay's, as ``os.DirEntry`` is one of a real folder's."""

    __slots__ = ("_overlay", "_seen", "name", "path")

    def __init__(self, overlay: Overlay, name: Any, path: Any, seen: str) -> None:
        self.name = name
        self.path = path
        self._seen = seen
        self._overlay = overlay

    def __fspath__(self) -> Any:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As of the file; raises FileNotFoundError for a link to nowhere."""
        place = self._overlay.effective(self._overlay.view(self._seen, follow_symlinks))
        if place is None:
            raise missing(self.path)
        return real_lstat(place)

    def inode(self) -> int:
        """Number of the entry itself."""
        return self.stat(follow_symlinks=False).st_ino

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._is(stat.S_ISLNK, False)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder, or leads to one."""
        return self._is(stat.S_ISDIR, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file, or leads to one."""
        return self._is(stat.S_ISREG, follow_symlinks)

    def is_junction(self) -> bool:
        """Never, outside of Windows."""
        return False

    def _is(self, kind: Callable[[int], bool], follow: bool) -> bool:
        try:
            return kind(self.stat(follow_symlinks=follow).st_mode)
        except FileNotFoundError:
            return False


class Entries:
    """What ``os.scandir`` answers for such a folder: an iterator and a context manager."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries: Iterator[Entry] = iter(entries)

    def __iter__(self) -> Entries:
        return self

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more comes."""
        self._entries = iter(())


def replacements(overlay: Overlay) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The system's functions and what stands in for them."""

    @functools.wraps(real_listdir)
    def listdir(path: Any = None) -> Any:
        folder = _merged(overlay, path)
        if folder is None:
            return named(real_listdir, path, _real(overlay, path))
        names = overlay.entries(folder)
        return [os.fsencode(name) for name in names] if isinstance(path, bytes) else names

    @functools.wraps(real_scandir)
    def scandir(path: Any = None) -> Any:
        folder = _merged(overlay, path)
        if folder is None:
            return named(real_scandir, path, _real(overlay, path))
        given: Any = "." if path is None else path if isinstance(path, int) else os.fspath(path)
        found = []
        for name in overlay.entries(folder):
            said = os.fsencode(name) if isinstance(given, bytes) else name
            where = said if isinstance(given, int) else os.path.join(given, said)
            found.append(Entry(overlay, said, where, os.path.join(folder, name)))
        return Entries(found)

    return {real_listdir: listdir, real_scandir: scandir}


def _real(overlay: Overlay, path: Any) -> Any:
    """Where an unmerged folder really is."""
    if path is None or isinstance(path, int) or overlay.idle():
        return path
    return overlay.place(path)


def _merged(overlay: Overlay, path: Any) -> str | None:
    """The folder that is listed, as the script sees it, where its entries are not those of one real folder; else None."""
    if overlay.idle():
        return None
    overlay.untouched()  # learn of what other processes did
    if isinstance(path, int):
        with overlay.at_work():
            folder = overlay.as_seen(os.readlink(f"/proc/self/fd/{path}"))
    else:
        folder = overlay.view("." if path is None else path)
    if not overlay.is_merged(folder):
        return None
    found = overlay.effective(folder)
    if found is None:
        raise overlay.absent(folder, path)
    if not is_folder(found):
        raise failure(errno.ENOTDIR, path)
    return folder
