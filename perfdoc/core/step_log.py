"""Single steps of a process, as fixed-size records in a memory-mapped file: a store to memory costs no system call.

The kernel owns the mapped pages, so what was stored survives ``kill -9``. The file is filled with zeros beforehand: a full
disk shows then, as an error, and not as a bus error inside the user's process.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

KINDS = ("control", "observed", "clock", "irregular")
"""What a step was recorded during; ``irregular`` steps did more than steps of this loop do."""
RECORD = struct.Struct("<Q8d")
"""Kind (its place in ``KINDS`` plus one; zero is an unused record), then seconds: of the whole step and by phase."""
RECORDS = 4096
"""Records a file."""


class StepLog:
    """Appends steps to ``<run>/steps-<lap>-<pid>-<n>.bin``. A disk without room silences it."""

    def __init__(self, run_dir: str, lap: int, pid: int) -> None:
        self._stem = os.path.join(run_dir, f"steps-{lap}-{pid}")
        self._count = self._files = 0
        self._map: mmap.mmap | None = None
        self._dead = False

    def add(self, kind: int, seconds: float, phases: Sequence[float]) -> None:
        """Record one step; ``kind`` is a place in ``KINDS``, ``phases`` holds seven durations."""
        place = self._count % RECORDS
        if place == 0 and not self._dead:
            self._next_file()
        if self._map is None:
            return
        RECORD.pack_into(self._map, place * RECORD.size, kind + 1, seconds, *phases)
        self._count += 1

    def _next_file(self) -> None:
        self._map = None
        try:
            fd = os.open(f"{self._stem}-{self._files:03d}.bin", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, bytes(RECORDS * RECORD.size))
                self._map = mmap.mmap(fd, RECORDS * RECORD.size)
            finally:
                os.close(fd)
            self._files += 1
        except (OSError, ValueError):
            self._dead = True


class LoggedStep(NamedTuple):
    """One step, read back; durations in seconds."""

    during: str
    """One of ``KINDS``."""
    seconds: float
    phases: list[float]


def read(path: str) -> Iterator[LoggedStep]:
    """The steps of one file."""
    with open(path, "rb") as f:
        data = f.read()
    for kind, seconds, *phases in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
        if not 0 < kind <= len(KINDS):
            return
        yield LoggedStep(KINDS[kind - 1], seconds, phases)
