"""The progress bar of a scan: what is being tried, what is settled, how much of the budget is left."""

from __future__ import annotations

import math
import shutil
import time
from types import TracebackType
from typing import TextIO

from perfdoc.capture import events, incidents
from perfdoc.capture.event import Event

LINE_SECONDS = 10.0
"""Without a terminal, a line is printed this often."""

_PHASES = {
    "screen": "trying each change alone and in pairs",
    "search": "looking for the best stack",
    "confirm": "confirming the plan",
    "settle": "settling what is still open",
}


class Progress:
    """Shows a scan's events on ``stream``: one line that is rewritten on a terminal, else a line every few seconds."""

    def __init__(self, budget: float, stream: TextIO) -> None:
        self._budget = budget
        self._stream = stream
        self._terminal = stream.isatty()
        self._printed = 0.0
        self._shown = False
        self._arms: set[str] = set()

    def __enter__(self) -> Progress:
        self._say("starting the script...", True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def show(self, event: Event) -> None:
        """Take notice of one event."""
        if isinstance(event, events.Seen) and event.what == "optimizer step":
            self._say("training; looking at the loop...", True)
        elif isinstance(event, events.Progress):
            self._arms.add(event.arm)
            used = max(0.0, self._budget - event.left)
            share = min(1.0, used / self._budget)
            bar = "#" * round(20 * share) + "-" * (20 - round(20 * share))
            settled = len(event.settled)
            phase = _PHASES.get(event.phase, event.phase)
            arm = event.arm
            self._say(f"[{bar}] {used:3.0f}/{self._budget:.0f} s  {phase}: {arm}  ({settled} settled)", False)
        elif isinstance(event, incidents.UnwatchedFound):
            self._say(f"torch trains in process {event.pid} without perfdoc in it: {event.command}", True)
        elif isinstance(event, incidents.Resumed):
            self._say(event.why, True)
        elif isinstance(event, incidents.Relaunched):
            self._say(f"starting the script again: {event.why}", True)
        elif isinstance(event, events.End):
            self._say(f"done ({event.reason}); ending the script...", True)

    def _say(self, text: str, now: bool) -> None:
        try:
            self._print(text, now)
        except OSError:  # the terminal has gone: the scan goes on to its end, or is told to end
            self._terminal = self._shown = False
            self._printed = math.inf

    def _print(self, text: str, now: bool) -> None:
        if self._printed == math.inf:
            return
        if self._terminal:
            width = shutil.get_terminal_size().columns
            self._stream.write("\r\x1b[K" + text[: width - 1])
            self._stream.flush()
            self._shown = True
        elif now or time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            self._stream.write(f"perfdoc: {text}\n")
            self._stream.flush()
