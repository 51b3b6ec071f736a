"""What a run left in the user's tree all the same: put right where it is known whose it is, told where it is not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from perfdoc.capture import events
from perfdoc.capture.event import Event, of

LONGEST_LOOK = 3.0
"""Maximum time for one listing of the working folder, in seconds."""
MOST_FILES = 200_000
"""Maximum number of files in it; a folder with more is a data set, and not listed further."""


def git_status(folder: Path) -> set[str] | None:
    """Real paths that ``git status`` lists now for the checkout that holds ``folder``; None outside of one."""
    try:
        top = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True, timeout=30)
        listed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"],
            capture_output=True, text=True, check=True, timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {os.path.realpath(os.path.join(top.stdout.strip(), entry[3:])) for entry in listed.stdout.split("\0") if entry}


class Listing:
    """Files below the working folder with their sizes and times: what is new afterwards was not there before."""

    def __init__(self, folder: Path, ours: Path) -> None:
        """``ours``: the folder that runs are kept in, which is left out."""
        self.whole = True
        self.files: dict[str, tuple[int, int]] = {}
        began = time.monotonic()
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if os.path.join(place, name) != str(ours) and name != "__pycache__"]
            for name in names:
                path = os.path.join(place, name)
                with contextlib.suppress(OSError):
                    found = os.lstat(path)
                    self.files[path] = (found.st_size, found.st_mtime_ns)
            if len(self.files) > MOST_FILES or time.monotonic() - began > LONGEST_LOOK:
                self.whole = False
                return

    def new(self, before: Listing) -> list[str]:
        """Files that are here and were not before, or changed since; nothing where either listing was cut off."""
        if not (self.whole and before.whole):
            return []
        return sorted(path for path, found in self.files.items() if before.files.get(path) != found)


def tidy(written: Sequence[Event], *, target: Path, folder: Path) -> list[str]:
    """Put right what Python wrote past the guard, as the net under it has told: paths that were moved to ``target``.

    What was new is moved; a file of the user's gets its bytes, mode and times back from the copy in the run's ``folder``.
    Nothing that the events do not name is touched. ``written``: events of the run, which must have ended.
    """
    for saved in of(events.FileSaved, written):
        copy = folder / saved.copy
        with contextlib.suppress(OSError):
            if not _same(copy, Path(saved.path)):
                shutil.copy2(copy, saved.path)
    moved = []
    for path in sorted({made.path for made in of(events.FileUnguarded, written)}, reverse=True):
        if os.path.islink(path) or os.path.isfile(path):
            place = target / path.lstrip(os.sep)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                shutil.move(path, place)
                moved.append(path)
        elif os.path.isdir(path):
            with contextlib.suppress(OSError):
                os.rmdir(path)  # only where it is empty: what was made in it has been moved
    return sorted(moved)


def _same(copy: Path, path: Path) -> bool:
    """Whether a file is still what its copy is."""
    if not path.exists():
        return False
    one, other = copy.stat(), path.stat()
    return (one.st_size, one.st_mtime_ns, one.st_mode) == (other.st_size, other.st_mtime_ns, other.st_mode) and (
        copy.read_bytes() == path.read_bytes())
