"""Removing, renaming, linking and making folders: the user's own stay where they are, the script sees what it asked for."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from perfdoc.inject.guard.opening import at
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import (
    exists,
    failure,
    is_folder,
    is_link,
    missing,
    real_link,
    real_lstat,
    real_mkdir,
    real_readlink,
    real_remove,
    real_rename,
    real_rmdir,
    real_rmtree,
    real_symlink,
)

MOST_MOVED = 2**29
"""Maximum size of a folder of the user's own, in bytes, that is copied where the script renames it; a larger one is said to lie
on another device, as a rename may answer."""


class Changes:
    """What each call does to the overlay. Arguments are as the script gave them."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay

    def _path(self, file: Any, dir_fd: int | None = None, follow: bool = False) -> str | None:
        """What the script means by ``file``; None where the overlay has no part in it."""
        overlay = self._overlay
        if overlay.idle() or isinstance(file, int):
            return None
        overlay.untouched()  # learn of what other processes did
        path = overlay.view(file if dir_fd is None else at(overlay, file, dir_fd), follow)
        return path if overlay.ours(path) or overlay.hidden(path) else None

    def remove(self, original: Callable[..., Any], file: Any, *, dir_fd: int | None = None) -> None:
        """``os.remove`` and ``os.unlink``."""
        path = self._path(file, dir_fd)
        if path is None:
            original(self._real(file, dir_fd), **({} if dir_fd is None else {"dir_fd": dir_fd}))
            return
        found = self._overlay.effective(path)
        if found is None:
            raise self._overlay.absent(path, file)
        if is_folder(found):
            raise failure(errno.EISDIR, file)
        self._overlay.drop(path)

    def _path_of_two(self, which: int, src: Any, dst: Any, dir_fd: int | None = None) -> str | None:
        """What the script means by one of two files; an error names both."""
        try:
            return self._path((src, dst)[which], dir_fd)
        except OSError as error:
            raise failure(error.errno or errno.ENOENT, src, dst) from None

    def _real(self, file: Any, dir_fd: int | None = None) -> Any:
        """``file`` for the system: an absolute path where the working directory is one of the overlay's."""
        overlay = self._overlay
        if dir_fd is not None or overlay.idle() or isinstance(file, int):
            return file
        return file if os.fsdecode(file).startswith("/") else os.path.join(overlay.getcwd(), os.fsdecode(file))

    def rmdir(self, original: Callable[..., Any], file: Any, *, dir_fd: int | None = None) -> None:
        """``os.rmdir``."""
        path = self._path(file, dir_fd)
        if path is None:
            original(self._real(file, dir_fd), **({} if dir_fd is None else {"dir_fd": dir_fd}))
            return
        found = self._overlay.effective(path)
        if found is None:
            raise self._overlay.absent(path, file)
        if not is_folder(found):
            raise failure(errno.ENOTDIR, file)
        if self._overlay.entries(path):
            raise failure(errno.ENOTEMPTY, file)
        self._overlay.drop(path)

    def mkdir(self, original: Callable[..., Any], file: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        """``os.mkdir``."""
        path = self._path(file, dir_fd)
        if path is None:
            original(self._real(file, dir_fd), mode, **({} if dir_fd is None else {"dir_fd": dir_fd}))
            return
        self._must_be_free(path, file)
        real_mkdir(self._overlay.make(path, "folder"), mode)

    def _must_be_free(self, path: str, *files: Any) -> None:
        """Raise as the system does where nothing can be made at ``path``."""
        if self._overlay.effective(path) is not None:
            raise failure(errno.EEXIST, *files)
        if not is_folder(self._overlay.effective(os.path.dirname(path))):
            raise self._overlay.absent(path, *files)

    def symlink(self, original: Callable[..., Any], src: Any, dst: Any, *args: Any, dir_fd: int | None = None) -> None:
        """``os.symlink``: the link says what the script made it say; the overlay follows it."""
        path = self._path_of_two(1, src, dst, dir_fd)
        if path is None:
            original(src, self._real(dst, dir_fd), *args, **({} if dir_fd is None else {"dir_fd": dir_fd}))
            return
        self._must_be_free(path, src, dst)
        if os.fsdecode(dst).endswith("/"):
            raise missing(src, dst)
        real_symlink(os.fsdecode(src), self._overlay.make(path, "link"))

    def link(self, original: Callable[..., Any], src: Any, dst: Any, *, src_dir_fd: int | None = None,
             dst_dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        """``os.link``: both names stand for one copy in the overlay from then on."""
        overlay = self._overlay
        path = self._path_of_two(1, src, dst, dst_dir_fd)
        if path is None:
            original(overlay.place(src), self._real(dst, dst_dir_fd))
            return
        of = overlay.view(src if src_dir_fd is None else at(overlay, src, src_dir_fd), False)
        found = overlay.effective(of)
        if found is None:
            raise overlay.absent(of, src, dst)
        self._must_be_free(path, src, dst)
        if is_folder(found):
            raise failure(errno.EPERM, src, dst)
        if found == of:
            found = overlay.copy_up(of)
        real_link(found, overlay.make(path), follow_symlinks=False)

    def rename(self, original: Callable[..., Any], src: Any, dst: Any, *, src_dir_fd: int | None = None,
               dst_dir_fd: int | None = None) -> None:
        """``os.rename`` and ``os.replace``."""
        overlay = self._overlay
        source = self._path_of_two(0, src, dst, src_dir_fd)
        target = self._path_of_two(1, src, dst, dst_dir_fd)
        if source is None and target is None:
            original(self._real(src, src_dir_fd), self._real(dst, dst_dir_fd),
                     **{name: fd for name, fd in (("src_dir_fd", src_dir_fd), ("dst_dir_fd", dst_dir_fd)) if fd is not None})
            return
        source = source or overlay.view(src, False)
        target = target or overlay.view(dst, False)
        found, there = overlay.effective(source), overlay.effective(target)
        if not is_folder(overlay.effective(os.path.dirname(source))):
            raise overlay.absent(source, src, dst)
        if not is_folder(overlay.effective(os.path.dirname(target))):
            raise overlay.absent(target, src, dst)
        if found is None:
            raise overlay.absent(source, src, dst)
        if source == target:
            return
        folder = is_folder(found)
        if not folder and os.fsdecode(dst).endswith("/"):
            raise failure(errno.ENOTDIR, src, dst)
        if not folder and source.startswith(target + "/"):
            raise failure(errno.ENOTEMPTY, src, dst)
        if folder and target.startswith(source + "/"):
            raise failure(errno.EINVAL, src, dst)
        if there is not None:
            if folder and not is_folder(there):
                raise failure(errno.ENOTDIR, src, dst)
            if not folder and is_folder(there):
                raise failure(errno.EISDIR, src, dst)
            if folder and overlay.entries(target):
                raise failure(errno.ENOTEMPTY, src, dst)
        self._move(source, target, folder, src, dst)

    def _move(self, source: str, target: str, folder: bool, src: Any, dst: Any) -> None:
        overlay = self._overlay
        if folder and overlay.below(source) is not None and _size(source) > MOST_MOVED:
            raise failure(errno.EXDEV, src, dst)
        if folder:
            overlay.drop(target)
            self._copy_tree(source, target)
        else:
            place = overlay.upper(source)
            if not exists(place):
                place = overlay.copy_up(source)
            if not overlay.ours(target):
                with overlay.at_work():
                    shutil.move(place, target)  # out of the project, to a temporary folder
            else:
                if is_link(place):
                    overlay.drop(target)
                real_rename(place, overlay.make(target, "link" if is_link(place) else "file"))
                overlay.tell_neighbours(target)
        overlay.drop(source)

    def _copy_tree(self, source: str, target: str) -> None:
        """What the script sees below ``source``, in the overlay below ``target``."""
        overlay = self._overlay
        place = overlay.effective(source)
        assert place is not None
        if is_folder(place):
            new = overlay.make(target, "folder")
            if not is_folder(new):
                real_mkdir(new)
            for name in overlay.entries(source):
                self._copy_tree(os.path.join(source, name), os.path.join(target, name))
        elif is_link(place):
            real_symlink(real_readlink(place), overlay.make(target, "link"))
        else:
            new = overlay.make(target)
            with overlay.at_work():
                if place == source:
                    shutil.copyfile(place, new)
                else:
                    real_rename(place, new)
                    return
        with overlay.at_work():
            if not is_link(place):
                shutil.copystat(place, new)

    def rmtree(self, path: Any, ignore_errors: bool = False, onerror: Any = None, **kwargs: Any) -> None:
        """``shutil.rmtree``."""
        seen = None if kwargs.get("dir_fd") is not None else self._path(path)
        if seen is None:
            real_rmtree(path, ignore_errors, onerror, **kwargs)
            return
        found = self._overlay.effective(seen)
        if found is None or not is_folder(found):
            error = self._overlay.absent(seen, path) if found is None else failure(errno.ENOTDIR, path)
            if is_link(found):
                there = self._overlay.effective(self._overlay.view(path))
                error = missing(path) if there is None else OSError("Cannot call rmtree on a symbolic link")
                if there is not None and sys.version_info >= (3, 13):  # it names the path from there on
                    error.filename = path
            self._tell_error(error, path, ignore_errors, onerror, kwargs.get("onexc"))
            return
        self._overlay.drop(seen)

    @staticmethod
    def _tell_error(error: OSError, path: Any, ignore_errors: bool, onerror: Any, onexc: Any) -> None:
        if ignore_errors:
            return
        if onexc is not None:
            onexc(os.lstat, path, error)
        elif onerror is not None:
            onerror(os.lstat, path, (type(error), error, None))
        else:
            raise error


def _size(folder: str) -> int:
    """Bytes of the files in a real folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += real_lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def replacements(overlay: Overlay) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The system's functions and what stands in for them."""
    changes = Changes(overlay)
    found: dict[Callable[..., Any], Callable[..., Any]] = {
        real_remove: changes.remove, os.unlink: changes.remove, real_rmdir: changes.rmdir, real_mkdir: changes.mkdir,
        real_symlink: changes.symlink, real_link: changes.link, real_rename: changes.rename, os.replace: changes.rename,
    }
    replaced: dict[Callable[..., Any], Callable[..., Any]] = {
        original: functools.wraps(original)(functools.partial(do, original)) for original, do in found.items()
    }

    def rmtree(path: Any, ignore_errors: bool = False, onerror: Any = None, **kwargs: Any) -> None:
        changes.rmtree(path, ignore_errors, onerror, **kwargs)

    rmtree.avoids_symlink_attacks = True  # type: ignore[attr-defined]
    replaced[real_rmtree] = functools.update_wrapper(
        rmtree, real_rmtree, [name for name in functools.WRAPPER_ASSIGNMENTS if hasattr(real_rmtree, name)])
    return replaced
