"""Keeps a scan from writing to what is the user's: checkpoints, logs, results.

A scan runs the user's real script for two minutes with weights that will be thrown away; what it would write over is worth
more than what it writes. So, while it runs:

* ``torch.save``, safetensors and with them ``save_pretrained`` write into the run's folder;
* a file that was there before is never opened for writing, replaced or removed: the script gets a copy in the run's
  folder, and reads its own writes back from there;
* files that are new stay where the script puts them until training starts (downloads, caches, vocabularies) and go to the
  run's folder from then on. All are listed, so that the parent can move those that would show up in ``git status``.

Temporary folders, devices and the caches in the home folder are left alone. What C code opens by itself (HDF5, SQLite)
is not seen.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from perfdoc.inject import native_files
from perfdoc.inject.import_hooks import when_imported
from perfdoc.inject.recorder import Recorder


class Guard:
    """The files of one process as its script sees them: an overlay over the user's own.

    ``moved`` path -> copy in the run's folder that stands for it; ``created`` paths the script made in set-up, which it may
    do with what it likes; ``gone`` paths of the user's that the script believes it removed.
    """

    def __init__(self, recorder: Recorder, protect: Sequence[str]) -> None:
        self._recorder = recorder
        self._folder = os.path.join(recorder.run_dir, "redirected")
        self._moved: dict[str, str] = {}
        self._created: set[str] = set()
        self._gone: set[str] = set()
        self._gone_trees: set[str] = set()
        self._remade: set[str] = set()
        self._names: set[str] = set()
        self._inside = threading.local()
        home = os.path.expanduser("~")
        free = [recorder.run_dir, "/dev", "/proc", "/sys", "/run", tempfile.gettempdir(), "/tmp", "/var/tmp",
                os.path.join(home, ".cache")]
        self._free = tuple(os.path.join(os.path.realpath(path), "") for path in free)
        self._protected = tuple(os.path.join(os.path.realpath(path), "") for path in protect)
        self.training = False
        """Set by the session at the first optimizer step."""

    # -- paths

    def idle(self) -> bool:
        """Whether the guard is at work itself right now: its own look at the disk is not looked at."""
        return getattr(self._inside, "busy", False)

    def path_of(self, file: Any, follow: bool = True) -> str | None:
        """Absolute path of what a call names as a file, or None for descriptors and what the guard leaves alone.

        ``follow``: through a link at its end, as opening does; removing and renaming act on the link itself.
        """
        if isinstance(file, int) or file is None:
            return None
        self._inside.busy = True
        try:
            name = os.path.abspath(os.fsdecode(file))
            if follow:
                path = os.path.realpath(name)
            else:
                path = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        except (TypeError, ValueError):
            return None
        finally:
            self._inside.busy = False
        if path.startswith(self._protected) and not path.startswith(self._free[0]):
            return path  # the user's project is protected even where it lies in a temporary folder
        return None if path.startswith(self._free) else path

    def _saved(self, file: Any) -> str | None:
        """Path of a checkpoint that was saved outside of what is guarded: those are redirected everywhere."""
        if isinstance(file, str | bytes | os.PathLike):
            self._inside.busy = True
            try:
                path = os.path.realpath(os.fsdecode(file))
            finally:
                self._inside.busy = False
            return path if path in self._moved else None
        return None

    def _is_gone(self, path: str) -> bool:
        """Whether the script believes that it removed ``path``."""
        if path in self._moved or path in self._created or path in self._remade:
            return False
        return path in self._gone or any(path == tree or path.startswith(tree + os.sep) for tree in self._gone_trees)

    def _theirs(self, path: str) -> bool:
        """Whether ``path`` is there and was there before the script."""
        return _exists(path) and path not in self._created

    def reading(self, file: Any, follow: bool = True) -> Any:
        """Where to read ``file`` from. Raises FileNotFoundError for what the script removed."""
        if self.idle() or not (self._names or self._gone_trees):
            return file
        try:
            # The whole path is only looked at where the name can be one of ours: data sets open thousands of files.
            if not self._gone_trees and os.path.basename(os.fsdecode(file)) not in self._names:
                return file
        except TypeError:
            return file
        path = self.path_of(file, follow) or self._saved(file)
        if path is None:
            return file
        if path in self._moved:
            copy = self._moved[path]
            return self.reading(os.path.realpath(copy)) if follow and os.path.islink(copy) else copy
        if self._is_gone(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        return file

    def writing(self, file: Any, keep: bool, exclusive: bool = False) -> Any:
        """Where to write ``file`` to. ``keep``: what it holds is read or appended to, so a copy begins with it."""
        path = None if self.idle() else self.path_of(file)
        if path is None:
            return file
        if path in self._moved:
            copy = self._moved[path]
            return self.writing(os.path.realpath(copy), keep, exclusive) if os.path.islink(copy) else copy
        gone, theirs = self._is_gone(path), self._theirs(path)
        if theirs and not gone and exclusive:
            return file  # opening it fails, as it should
        if theirs or self.training:
            if not _is_folder(os.path.dirname(path)) or _is_folder(path):
                return file
            self._names.add(os.path.basename(os.fsdecode(file)))
            return self.redirect(path, keep and not gone)
        if _is_folder(os.path.dirname(path)):
            self.created(path)
        return file

    def created(self, path: str) -> None:
        """The script made ``path``: it may do with it what it likes until training starts."""
        if path not in self._created:
            self._created.add(path)
            self._recorder.write("created", path=path)

    def redirect(self, path: str, keep: bool) -> str:
        """A place in the run's folder that stands for ``path`` from now on."""
        if path not in self._moved:
            copy = os.path.join(self._folder, path.lstrip(os.sep))
            self._inside.busy = True
            try:
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                if _exists(copy):
                    _remove(copy)  # left by an earlier lap, or by a file of that name that the script removed
                if keep and _is_file(path):
                    shutil.copyfile(path, copy)
            finally:
                self._inside.busy = False
            self._moved[path] = copy
            self._names.add(os.path.basename(path))
            self._gone.discard(path)
            self._recorder.write("redirected", path=path, to=os.path.relpath(copy, self._recorder.run_dir))
        return self._moved[path]

    def always(self, file: Any) -> Any:
        """Where a checkpoint goes: into the run's folder, wherever the script wants it. Buffers are left alone."""
        if not isinstance(file, str | bytes | os.PathLike):
            return file
        path = os.path.realpath(os.path.abspath(os.fsdecode(file)))
        if path.startswith(self._free[0]) or not _is_folder(os.path.dirname(path)):
            return file
        return self.redirect(path, False)

    # -- removing and renaming

    def remove(self, file: Any, original: Callable[..., Any]) -> Any:
        """Remove ``file``, or let the script believe so where it is the user's."""
        path = None if self.idle() else self.path_of(file, follow=False)
        if path is None:
            return original(file)
        if path in self._moved:
            copy = self._moved.pop(path)
            if _exists(copy):
                _remove(copy)
            return self._leave(path)
        if self._is_gone(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        if self._theirs(path) and not (_is_folder(path) and not os.path.islink(path)):
            self._recorder.write("kept", path=path)
            return self._leave(path)
        self._created.discard(path)
        return original(file)

    def _leave(self, path: str) -> None:
        """Nothing is at ``path`` any more, as far as the script is concerned."""
        if path in self._created:
            self._created.discard(path)
            if _exists(path):
                _remove(path)
        elif _exists(path):
            self._gone.add(path)
            self._names.add(os.path.basename(path))

    def remove_tree(self, folder: Any, original: Callable[..., Any]) -> Any:
        """Remove a folder with all that is in it, or let the script believe so where any of it is the user's."""
        path = None if self.idle() else self.path_of(folder)
        if path is None or not _is_folder(path) or self._is_gone(path):
            return original(folder)
        inside = [os.path.join(place, name) for place, _, names in os.walk(path) for name in names]
        if all(file in self._created for file in inside):
            self._created.difference_update(inside)
            for moved in [m for m in self._moved if m.startswith(path + os.sep)]:
                del self._moved[moved]
            self._inside.busy = True
            try:
                return original(folder)
            finally:
                self._inside.busy = False
        self._recorder.write("kept", path=path)
        for moved in [m for m in self._moved if m.startswith(path + os.sep)]:
            del self._moved[moved]
        self._created = {file for file in self._created if not file.startswith(path + os.sep)}
        self._remade.discard(path)
        self._gone_trees.add(path)
        return None

    def make_folder(self, folder: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a folder; one that was only removed in pretence is there already."""
        path = None if self.idle() else self.path_of(folder)
        if path is not None and _is_folder(path) and self._is_gone(path):
            self._remade.add(path)
            return None
        made = original(folder, *args, **kwargs)
        if path is not None:
            self._recorder.write("folder", path=path)
        return made

    def rename(self, source: Any, target: Any, original: Callable[..., Any]) -> Any:
        """Rename, with the user's files left where they are on either side."""
        from_path = None if self.idle() else self.path_of(source, follow=False)
        to_path = None if self.idle() else self.path_of(target, follow=False)
        if from_path is None and to_path is None:
            return original(source, target)
        if from_path is not None and self._is_gone(from_path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        data = self._moved.get(from_path, os.fsdecode(source)) if from_path else os.fsdecode(source)
        if not _exists(data) or _is_folder(data):
            # Folders: the user's own are not moved about, the script's are its own affair.
            if from_path is not None and _is_folder(data) and self._holds_theirs(from_path):
                self._recorder.write("kept", path=from_path)
                self._gone_trees.add(from_path)
                return None
            return original(source, target)
        place = os.fsdecode(target)
        if to_path is not None:
            if to_path in self._moved or self._theirs(to_path) or self.training:
                self._moved.pop(to_path, None)
                place = self.redirect(to_path, False)
            else:
                self.created(to_path)
        mine = from_path is None or from_path in self._moved or from_path in self._created
        self._inside.busy = True
        try:
            if mine:
                shutil.move(data, place)
            else:
                shutil.copyfile(data, place)
        finally:
            self._inside.busy = False
        if from_path is not None:
            self._moved.pop(from_path, None)
            self._leave(from_path)
        return None

    def _holds_theirs(self, folder: str) -> bool:
        return any(
            os.path.join(place, name) not in self._created for place, _, names in os.walk(folder) for name in names
        )

    def link(self, target: Any, name: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a symbolic link, in the run's folder where the user's own or a trained-time file would be made."""
        path = None if self.idle() else self.path_of(name, follow=False)
        if path is None or path in self._moved or not (self.training or self._is_gone(path)):
            made = original(target, name, *args, **kwargs)
            if path is not None:
                self.created(path)
            return made
        if self._theirs(path) and not self._is_gone(path):
            return original(target, name, *args, **kwargs)
        points_to = os.path.join(os.path.dirname(path), os.fsdecode(target))
        return original(self._moved.get(points_to, points_to), self.redirect(path, False), *args, **kwargs)


_lstat, _stat, _remove = os.lstat, os.stat, os.remove


def _is_folder(path: Any) -> bool:
    """``os.path.isdir``, asked of the real file system."""
    try:
        return stat.S_ISDIR(_stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _is_file(path: Any) -> bool:
    """``os.path.isfile``, asked of the real file system."""
    try:
        return stat.S_ISREG(_stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _exists(path: str) -> bool:
    """Whether anything is at ``path``, links included, asked of the real file system."""
    try:
        _lstat(path)
    except (OSError, ValueError):
        return False
    return True


def install(recorder: Recorder, protect: Sequence[str]) -> Guard:
    """Put the guard in. ``protect``: folders that are the user's project, wherever they lie."""
    guard = Guard(recorder, protect)
    open_file, open_descriptor = builtins.open, os.open

    @functools.wraps(open_file)
    def guarded_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode or "a" in mode or "x" in mode or "+" in mode:
            place = guard.writing(file, "w" not in mode, "x" in mode)
        else:
            place = guard.reading(file)
        return open_file(place, mode, *args, **kwargs)

    @functools.wraps(open_descriptor)
    def guarded_descriptor(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dir_fd") is not None or flags & getattr(os, "O_DIRECTORY", 0):
            return open_descriptor(path, flags, *args, **kwargs)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            place = guard.writing(path, not flags & os.O_TRUNC, bool(flags & os.O_EXCL))
        else:
            place = guard.reading(path)
        return open_descriptor(place, flags, *args, **kwargs)

    builtins.open = guarded_open
    io.open = guarded_open
    os.open = guarded_descriptor
    # Modules that took the name at import time, before this ran.
    for name in ("tarfile", "zipfile", "gzip", "bz2", "lzma", "pathlib", "logging"):
        module = sys.modules.get(name)
        for attribute in ("bltn_open", "_builtin_open"):
            if module is not None and hasattr(module, attribute):
                setattr(module, attribute, guarded_open)
    _wrap_questions(guard)
    _wrap_changes(guard)
    when_imported("torch", lambda torch: _wrap_torch(guard, torch))
    for name, function in (("safetensors.torch", "save_file"), ("safetensors.numpy", "save_file")):
        when_imported(name, functools.partial(_wrap_save, guard, function))
    native_files.install(guard)
    return guard


def _wrap_questions(guard: Guard) -> None:
    """Calls that ask about a file get the answer for what stands for it; calls that touch its metadata, touch that."""

    def asking(original: Callable[..., Any], follow: bool) -> Callable[..., Any]:
        @functools.wraps(original)
        def asked(path: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dir_fd") is not None:
                return original(path, *args, **kwargs)
            links = follow and kwargs.get("follow_symlinks", True)
            return original(guard.reading(path, links), *args, **kwargs)

        return asked

    for name in ("stat", "listxattr", "getxattr"):
        if hasattr(os, name):
            setattr(os, name, asking(getattr(os, name), True))
    for name in ("lstat", "readlink"):
        setattr(os, name, asking(getattr(os, name), False))
    access = os.access

    @functools.wraps(access)
    def accessible(path: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            return access(guard.reading(path), *args, **kwargs)
        except FileNotFoundError:
            return False

    os.access = accessible

    def touching(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def touched(path: Any, *args: Any, **kwargs: Any) -> Any:
            if guard.idle() or kwargs.get("dir_fd") is not None:
                return original(path, *args, **kwargs)
            place = guard.reading(path)
            absolute = guard.path_of(path)
            if place is path and absolute is not None and guard._theirs(absolute):
                return None  # modes and times of the user's files stay
            return original(place, *args, **kwargs)

        return touched

    for name in ("chmod", "utime", "truncate", "setxattr", "removexattr"):
        if hasattr(os, name):
            setattr(os, name, touching(getattr(os, name)))


def _wrap_changes(guard: Guard) -> None:
    def removing(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def removed(path: Any, *, dir_fd: int | None = None) -> Any:
            return original(path, dir_fd=dir_fd) if dir_fd is not None else guard.remove(path, original)

        return removed

    def renaming(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def renamed(src: Any, dst: Any, **kwargs: Any) -> Any:
            return original(src, dst, **kwargs) if kwargs else guard.rename(src, dst, original)

        return renamed

    os.remove, os.unlink = removing(os.remove), removing(os.unlink)
    os.rename, os.replace = renaming(os.rename), renaming(os.replace)
    mkdir, symlink, rmtree = os.mkdir, os.symlink, shutil.rmtree

    @functools.wraps(mkdir)
    def made(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
        if dir_fd is not None:
            return mkdir(path, mode, dir_fd=dir_fd)
        return guard.make_folder(path, mkdir, mode)

    @functools.wraps(symlink)
    def linked(src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dir_fd") is not None:
            return symlink(src, dst, *args, **kwargs)
        return guard.link(src, dst, symlink, *args, **kwargs)

    @functools.wraps(rmtree)
    def removed_tree(path: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dir_fd") is not None:
            return rmtree(path, *args, **kwargs)
        return guard.remove_tree(path, lambda folder: rmtree(folder, *args, **kwargs))

    os.mkdir, os.symlink = made, linked
    shutil.rmtree = removed_tree  # type: ignore[assignment]


def _wrap_torch(guard: Guard, torch: ModuleType) -> None:
    save = torch.save

    @functools.wraps(save)
    def guarded_save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        return save(obj, guard.always(f), *args, **kwargs)

    load = torch.load

    @functools.wraps(load)
    def guarded_load(f: Any, *args: Any, **kwargs: Any) -> Any:
        return load(guard.reading(f), *args, **kwargs)

    torch.save, torch.load = guarded_save, guarded_load  # type: ignore[attr-defined]


def _wrap_save(guard: Guard, function: str, module: ModuleType) -> None:
    save = getattr(module, function)

    @functools.wraps(save)
    def guarded(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        return save(tensors, guard.always(filename), *args, **kwargs)

    setattr(module, function, guarded)
