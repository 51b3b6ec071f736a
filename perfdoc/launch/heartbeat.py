"""Is the loop still alive? Looked at from outside, for the cases in which the process itself cannot say."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil

from perfdoc.capture.event import Event
from perfdoc.capture.incidents import Resumed

STILL_SECONDS = 60.0
"""Maximum age of a heartbeat, in seconds. The watchdog in the process beats every second; it stops where the process hangs in
compiled code that never lets Python run."""
SUSPENDED_SECONDS = 20.0
"""Time that a process may be suspended (SIGSTOP) while the scan itself is not, in seconds; then it is told to go on."""
MOST_RESUMED = 3
"""Maximum number of times that a suspended process is told to go on."""
OVERTIME_FACTOR = 1.5
OVERTIME_SECONDS = 180.0
"""A loop is given up 1.5 budgets and three minutes after its first step, whatever it says: a round of slow arms overruns the
budget by a minute at most."""


class Heartbeat:
    """Watches over one launch.

    ``folder``: the run's. ``wait``: seconds that a loop may take to be known once it has made a step. ``say``: takes an event
    for the person who watches.
    """

    def __init__(
        self, folder: Path, lap: int, budget: float, wait: float, say: Callable[[Event], None]
    ) -> None:
        self._folder = folder
        self._lap = lap
        self._budget = budget
        self._wait = wait
        self._say = say
        self._stopped_since: float | None = None
        self._resumed = 0
        self._trains_since: float | None = None
        self._known_since: float | None = None
        self._slept = 0.0
        self._last = time.monotonic()

    def trouble(self, pid: int, seen: Collection[str], known: bool = True) -> str:
        """Why this launch has to be ended now: ``stuck`` or ``did not end``; empty where all is well.

        ``pid``: of the command. ``seen``: what its processes got to (``optimizer step``). ``known``: whether the loop is known.
        """
        now = time.monotonic()
        if now - self._last > 10:  # the scan itself stood still: a laptop slept, or all of it was suspended
            self._slept += now - self._last
            self._stopped_since = None
        self._last = now
        if self._suspended(pid, now):
            return "stuck" if self._resumed > MOST_RESUMED else ""
        if "optimizer step" in seen and self._trains_since is None:
            self._trains_since = now
        if self._trains_since is None:
            return ""
        if known and self._known_since is None:
            self._known_since = now
        since = self._known_since if self._known_since is not None else self._trains_since + self._wait
        if now - since - self._slept > OVERTIME_FACTOR * self._budget + OVERTIME_SECONDS:
            return "did not end"
        return "stuck" if self._all_still() else ""

    def _suspended(self, pid: int, now: float) -> bool:
        """Whether the process is suspended; after a while it is told to go on."""
        try:
            stopped = psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False
        if not stopped:
            self._stopped_since = None
            return False
        if self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since > SUSPENDED_SECONDS:
            self._stopped_since = None
            self._resumed += 1
            self._say(Resumed(why="the script was suspended by somebody else; it is told to go on"))
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
        return True

    def _all_still(self) -> bool:
        """Whether a process that beat does not beat any more, though it lives."""
        for file in self._folder.glob(f"beat-{self._lap}-*"):
            try:
                age = time.time() - file.stat().st_mtime
                if age > STILL_SECONDS and psutil.Process(int(file.name.split("-")[2])).status() not in (
                    psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED,
                ):
                    return True
            except (OSError, ValueError, psutil.Error):
                continue
        return False
