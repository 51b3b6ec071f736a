"""Processes of a run that have loaded torch without perfdoc being in it: looked for from outside, and told at once."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

import psutil

from perfdoc.capture.event import Event, first
from perfdoc.capture.incidents import UnwatchedFound

LOOK_SECONDS = 2.0
"""Time between two looks, in seconds."""
HANDSHAKE_SECONDS = 8.0
"""Maximum time from torch's library being mapped to its import being over, in seconds: about 3 s on a slow disk."""
ALONE_SECONDS = 10.0
"""Time in seconds that a run may then go on without any process that is watched: what it writes is not guarded either."""
LIBRARY = "libtorch_cpu"


class Unwatched:
    """Finds them. One instance watches over one launch."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._told: set[int] = set()
        self._first: float | None = None
        self._next = 0.0

    def look(self, processes: Iterable[psutil.Process], watched: Collection[int]) -> list[UnwatchedFound]:
        """Events of processes that are told for the first time. ``watched``: pids in which torch is watched.

        Children of a watched process are none: it knows of its workers.
        """
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + LOOK_SECONDS
        found = []
        for process in processes:
            if process.pid in self._told:
                continue
            try:
                if not _has_torch(process.pid) or _under(process, watched) or "PERFDOC_WORKER" in process.environ():
                    continue
                if now - self._since.setdefault(process.pid, now) < HANDSHAKE_SECONDS:
                    continue
                self._told.add(process.pid)
                self._first = self._first or now
                found.append(UnwatchedFound(pid=process.pid, command=" ".join(process.cmdline())[:200]))
            except psutil.Error:
                continue
        return found

    def hopeless(self, watched: Collection[int]) -> bool:
        """Whether to end the run: somebody trains unseen for a while, and nobody is watched."""
        return self._first is not None and not watched and time.monotonic() - self._first > ALONE_SECONDS


def _has_torch(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
            return any(LIBRARY in line for line in f)
    except OSError:
        return False


def _under(process: psutil.Process, watched: Collection[int]) -> bool:
    return process.pid in watched or any(parent.pid in watched for parent in process.parents())


def told(events: Iterable[Event]) -> str:
    """What was found, in a sentence; empty where nothing was."""
    found = first(UnwatchedFound, events)
    if found is None:
        return ""
    return (f"torch was loaded in process {found.pid} ({found.command}), but perfdoc is not in that process: "
            "nothing of its training is seen. Was it started with -I, -E or -S, or without PYTHONPATH?")
