"""What a run's script has written and removed so far, told between all processes of a launch."""

from __future__ import annotations

import json
import os

from perfdoc.inject.guard.real_files import is_folder, is_link, real_open


class Journal:
    """A file to which every process appends its changes, and what it says so far.

    Before an answer a process compares its length with what it has read, and reads what others have added.
    """

    def __init__(self, file: str) -> None:
        self._file = real_open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._read = 0
        self.names: set[str] = set()
        """Last parts of all paths in it."""
        self.gone: set[str] = set()
        """What was removed of the user's own."""
        self.made: set[str] = set()
        """Folders that the script made, or whose mode or times it set."""
        self.parents: set[str] = set()
        """Folders with entries of their own in the overlay, or with removed ones."""
        self.folders: dict[str, tuple[str, bool]] = {}
        """What a folder's name leads to, and whether any of it is the overlay's; empty again when that may have changed."""
        self._catch_up()

    def empty(self) -> bool:
        """Whether nothing was written or removed, by any process."""
        self.sync()
        return not self._read

    def sync(self) -> None:
        """Read what other processes have added."""
        if os.fstat(self._file).st_size != self._read:
            self._catch_up()

    def add(self, kind: str, path: str) -> None:
        """Tell all processes of a change. ``kind``: ``file``, ``folder``, ``link`` or ``gone``."""
        if kind == "file" and os.path.basename(path) in self.names and os.path.dirname(path) in self.parents:
            return  # nothing that any process must learn
        os.write(self._file, (json.dumps([kind, path]) + "\n").encode())
        self.sync()

    def _catch_up(self) -> None:
        # Several threads of the script may come here at once. No lock: a forked child could find it locked for ever. Each notes
        # the lines that it has read itself, which does no harm twice, and what is set as read ends with a whole line.
        start = self._read
        data = os.pread(self._file, max(0, os.fstat(self._file).st_size - start), start)
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            kind, path = json.loads(line)
            self._note(kind, path)
        self._read = start + whole

    def _note(self, kind: str, path: str) -> None:
        parent, name = os.path.split(path)
        self.names.add(name)
        self.parents.add(parent)
        if kind == "gone":
            self.gone.add(path)
        elif kind == "folder":
            self.made.add(path)
        if kind != "file" or is_folder(path) or is_link(path):  # a file in place of one too
            self.folders.clear()
