"""A net below the guard: what Python is about to write past it is put down, and saved where it is the user's.

Python tells of every file that it opens, removes or renames before it does so (``sys.addaudithook``), also where a library kept
its own reference to the system's function. Something new is told to the parent, which moves it into the run's folder after the
run; a file of the user's is copied first, and the parent puts the copy back.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import Any

from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import exists, real_lstat
from perfdoc.inject.system import audit
from perfdoc.inject.system.recorder import Recorder

MOST_SAVED = 2**28
"""Maximum size of a file that is saved before it is changed, in bytes."""
CHANGES = frozenset(("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod",
                     "os.utime", "sqlite3.connect"))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Net:
    """Hears of what is done to files."""

    def __init__(self, overlay: Overlay, recorder: Recorder) -> None:
        self._overlay = overlay
        self._recorder = recorder
        self._known: set[str] = set()
        self._folder = os.path.join(recorder.run_dir, "saved")
        self.on = True

    def about_to(self, event: str, args: tuple[Any, ...]) -> None:
        """Something is about to happen to a file."""
        overlay = self._overlay
        if overlay.idle():
            return
        with overlay.at_work():
            try:
                for path in self._paths(event, args):
                    self._look(path)
            except (OSError, TypeError, ValueError, IndexError):  # never in the way of what the script does
                pass

    @staticmethod
    def _paths(event: str, args: tuple[Any, ...]) -> list[Any]:
        if event == "open":
            return [args[0]]
        if event in ("os.rename", "os.link"):
            return [args[0], args[1]] if event == "os.rename" else [args[1]]
        return [args[1]] if event == "os.symlink" else [args[0]]

    def _look(self, file: Any) -> None:
        if not isinstance(file, str | bytes | os.PathLike):
            return
        name = os.fsdecode(file)
        path = os.path.join(os.path.realpath(os.path.dirname(name) or "."), os.path.basename(name))
        if path in self._known or not self._overlay.guarded(path):
            return
        self._known.add(path)
        if not exists(path):
            self._recorder.write("unguarded", path=path)
            return
        found = real_lstat(path)
        if stat.S_ISREG(found.st_mode) and found.st_size <= MOST_SAVED:
            place = self._folder + path
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if not exists(place):
                shutil.copy2(path, place)
            self._recorder.write("saved", path=path, copy=os.path.relpath(place, self._recorder.run_dir))
        elif not stat.S_ISDIR(found.st_mode):
            self._recorder.write("unguarded_change", path=path)


def install(overlay: Overlay, recorder: Recorder) -> None:
    """Hang it up."""
    net = Net(overlay, recorder)

    def opened(event: str, args: tuple[Any, ...]) -> None:
        if args[2] and args[2] & WRITES:  # most files are only read
            net.about_to(event, args)

    audit.listen(["open"], opened)
    audit.listen(CHANGES, net.about_to)
