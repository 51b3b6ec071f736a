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
import functools
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from perfdoc.inject.import_hooks import when_imported
from perfdoc.inject.recorder import Recorder


class Guard:
    """The files of one process: which were redirected to where, and which it created."""

    def __init__(self, recorder: Recorder, protect: Sequence[str]) -> None:
        self._recorder = recorder
        self._folder = os.path.join(recorder.run_dir, "redirected")
        self._moved: dict[str, str] = {}
        self._created: set[str] = set()
        home = os.path.expanduser("~")
        free = [recorder.run_dir, "/dev", "/proc", "/sys", "/run", tempfile.gettempdir(), "/tmp", "/var/tmp",
                os.path.join(home, ".cache")]
        self._free = tuple(os.path.join(os.path.realpath(path), "") for path in free)
        self._protected = tuple(os.path.join(os.path.realpath(path), "") for path in protect)
        self._os_open = builtins.open
        self.training = False
        """Set by the session at the first optimizer step."""

    def path_of(self, file: Any) -> str | None:
        """Absolute path of what a call names as a file, or None for descriptors and what the guard leaves alone."""
        if isinstance(file, int) or file is None:
            return None
        try:
            path = os.path.realpath(os.fsdecode(file))
        except (TypeError, ValueError):
            return None
        if path.startswith(self._protected) and not path.startswith(self._free[0]):
            return path  # the user's project is protected even where it lies in a temporary folder
        return None if path.startswith(self._free) else path

    def reading(self, file: Any) -> Any:
        """Where to read ``file`` from."""
        if not self._moved:
            return file
        path = self.path_of(file)
        return self._moved.get(path, file) if path else file

    def writing(self, file: Any, keep: bool) -> Any:
        """Where to write ``file`` to. ``keep``: what it holds is read or appended to, so a copy begins with it."""
        path = self.path_of(file)
        if path is None:
            return file
        if path in self._moved:
            return self._moved[path]
        exists = os.path.lexists(path)
        if path in self._created and not self.training:
            return file
        if not exists and not self.training:
            if os.path.isdir(os.path.dirname(path)):
                self.created(path)
            return file
        return self.redirect(path, keep and exists)

    def created(self, path: str) -> None:
        """The script made ``path``: it may do with it what it likes until training starts."""
        if path not in self._created:
            self._created.add(path)
            self._recorder.write("created", path=path)

    def redirect(self, path: str, keep: bool) -> str:
        """A place in the run's folder that stands for ``path`` from now on."""
        if path not in self._moved:
            copy = os.path.join(self._folder, path.lstrip(os.sep))
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            if keep and os.path.isfile(path):
                shutil.copyfile(path, copy)
            self._moved[path] = copy
            self._recorder.write("redirected", path=path, to=os.path.relpath(copy, self._recorder.run_dir))
        return self._moved[path]

    def always(self, file: Any) -> Any:
        """Where a checkpoint goes: into the run's folder, wherever the script wants it. Buffers are left alone."""
        if not isinstance(file, str | bytes | os.PathLike):
            return file
        path = os.path.abspath(os.fsdecode(file))
        if path.startswith(self._free[0]):
            return file
        return self.redirect(os.path.realpath(path), False)

    def removing(self, file: Any) -> bool:
        """Whether removing ``file`` must only be pretended."""
        path = self.path_of(file)
        if path is None or path in self._created:
            return False
        if path in self._moved:
            try:
                os.remove(self._moved.pop(path))
            except OSError:
                pass
            return True
        if os.path.lexists(path):
            self._recorder.write("kept", path=path)
            return True
        return False


def install(recorder: Recorder, protect: Sequence[str]) -> Guard:
    """Put the guard in. ``protect``: folders that are the user's project, wherever they lie."""
    guard = Guard(recorder, protect)
    open_file, stat = builtins.open, os.stat

    @functools.wraps(open_file)
    def guarded_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if os.environ.get("PERFDOC_WORKER"):
            return open_file(file, mode, *args, **kwargs)
        if "w" in mode or "a" in mode or "x" in mode or "+" in mode:
            try:
                file = guard.writing(file, "w" not in mode)
            except OSError:
                pass
        else:
            file = guard.reading(file)
        return open_file(file, mode, *args, **kwargs)

    @functools.wraps(stat)
    def guarded_stat(path: Any, *args: Any, **kwargs: Any) -> Any:
        return stat(guard.reading(path) if guard._moved and not kwargs.get("dir_fd") else path, *args, **kwargs)

    builtins.open = guarded_open
    io.open = guarded_open
    # Modules that took the name at import time, before this ran.
    for name in ("tarfile", "zipfile", "gzip", "bz2", "lzma", "pathlib", "logging"):
        module = sys.modules.get(name)
        for attribute in ("bltn_open", "_builtin_open"):
            if module is not None and hasattr(module, attribute):
                setattr(module, attribute, guarded_open)
    os.stat = guarded_stat
    _wrap_removal(guard)
    when_imported("torch", lambda torch: _wrap_torch(guard, torch))
    for name, function in (("safetensors.torch", "save_file"), ("safetensors.numpy", "save_file")):
        when_imported(name, functools.partial(_wrap_save, guard, function))
    return guard


def _wrap_removal(guard: Guard) -> None:
    def pretending(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def removed(path: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get("dir_fd") is None and guard.removing(path):
                return None
            return original(path, *args, **kwargs)

        return removed

    def renaming(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def renamed(source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            to_path = guard.path_of(target)
            if kwargs or to_path is None:
                return original(source, target, *args, **kwargs)
            from_path = guard.path_of(source)
            moved = guard._moved.pop(from_path, None) if from_path else None
            theirs = os.path.lexists(to_path) and to_path not in guard._created
            if moved is None and not theirs and not guard.training:
                guard.created(to_path)
                return original(source, target, *args, **kwargs)
            if moved is None and not os.path.isfile(source):
                return original(source, target, *args, **kwargs)  # a folder: not copied for a guess
            copy = guard.redirect(to_path, False)
            if moved is not None:
                return original(moved, copy)
            shutil.copyfile(source, copy)
            if from_path is None or from_path in guard._created:
                os.remove(source)  # the script's own temporary file, as renaming would have used it up
            return None

        return renamed

    os.remove, os.unlink = pretending(os.remove), pretending(os.unlink)
    os.rename, os.replace = renaming(os.rename), renaming(os.replace)
    rmtree = shutil.rmtree

    @functools.wraps(rmtree)
    def kept_tree(path: Any, *args: Any, **kwargs: Any) -> Any:
        absolute = guard.path_of(path)
        if absolute is not None and os.path.isdir(absolute):
            theirs = [
                os.path.join(folder, name)
                for folder, _, names in os.walk(absolute)
                for name in names
                if os.path.join(folder, name) not in guard._created
            ]
            if theirs:
                guard._recorder.write("kept", path=absolute)
                return None
        return rmtree(path, *args, **kwargs)

    shutil.rmtree = kept_tree  # type: ignore[assignment]


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
