"""One append-only file of JSON lines per process, beside its step log. What was written survives ``kill -9``."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from perfdoc.core.step_log import StepLog

if TYPE_CHECKING:
    from perfdoc.capture.event import Event


class Recorder:
    """Appends events to ``<run>/events-<pid>.jsonl``; every event is one ``write`` to the operating system.

    Times are seconds since the epoch in ``t``. A full disk or a vanished folder silences the recorder: it must never
    fail the user's script.
    """

    def __init__(self, run_dir: str, lap: int) -> None:
        self.run_dir = run_dir
        self.lap = lap
        self.pid = os.getpid()
        self._fd: int | None = None
        self._dead = False
        self.steps = StepLog(run_dir, lap, self.pid)

    def write(self, event: Event | str, **fields: Any) -> None:
        """Append one event. Values must be what JSON knows; NaN is not.

        What runs before torch is imported names the kind and its fields (``write("kept", path=path)``): the classes are not
        loaded into every Python process that a script starts. A test holds such calls against them.
        """
        if isinstance(event, str):
            entry = {"e": event, **fields}
        else:
            from perfdoc.capture.event_lines import to_entry

            entry = to_entry(event)
        line = json.dumps({**entry, "t": round(time.time(), 6), "lap": self.lap}, default=str)
        if self._dead:
            return
        try:
            if self._fd is None:
                path = os.path.join(self.run_dir, f"events-{self.lap}-{self.pid}.jsonl")
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            os.write(self._fd, (line + "\n").encode())
        except (OSError, ValueError):
            self._dead = True

    def after_fork(self) -> None:
        """Give a forked child a file of its own."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self.pid = os.getpid()
        self.steps = StepLog(self.run_dir, self.lap, self.pid)
