"""What a scan is doing while it runs: one line that renews itself on a terminal, else a line every few seconds."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from perfdoc.capture import events, incidents
from perfdoc.capture.event import Event
from perfdoc.capture.lines import Lines
from perfdoc.capture.records import Loop

LINE_SECONDS = 10.0
"""Without a terminal, a line is printed this often."""
FIRST_BLOCK_SECONDS = 15.0
"""Maximum time in seconds after the first change was switched on until it is told where the time goes: the rest takes long."""
SMALL_SHARE = 0.05
"""Minimum share of the step for a phase to be named in that line."""

_DOING = {"search": "looking for the best combination", "confirm": "confirming the plan", "settle": "settling"}
"""What goes before the change that is on, by the phase of the experiment; ``trying`` in the others."""


class Progress:
    """Shows a scan's events on ``stream``."""

    def __init__(self, budget: float, stream: TextIO) -> None:
        self._budget = budget
        self._stream = stream
        self._terminal = stream.isatty()
        self._printed = 0.0
        self._changes: dict[str, str] = {}
        """Changes in words, by arm."""
        self._began: float | None = None
        self.folder: Path | None = None
        """The run's, where its steps are read for the first block."""
        self._loop: Loop | None = None
        self._live: Any = None

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            # Without a thread that redraws it: the parent shall not take time from the script.
            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=True, redirect_stdout=False,
                              redirect_stderr=False)
            self._live.start()
        self._say("starting the script ...", True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            try:
                self._live.stop()
            except OSError:  # the terminal has gone
                pass

    def show(self, event: Event) -> None:
        """Take notice of one event."""
        if isinstance(event, events.Seen) and event.what == "optimizer step":
            self._say("training; looking at the loop ...", True)
        elif isinstance(event, events.Offered) and event.record.status == "offered" and event.record.role != "ceiling":
            self._changes |= {f"{event.record.slug}={level}": change for level, change in event.record.levels}
        elif isinstance(event, events.LoopFound):
            self._loop = event.record
        elif isinstance(event, events.LinesSeen) and self._began != math.inf:
            self._began = math.inf
            self._first_block()
            self._top_lines(event.record)
        elif isinstance(event, events.Progress):
            self._tried(event)
        elif isinstance(event, incidents.UnwatchedFound):
            self._say(f"torch trains in process {event.pid} without perfdoc in it: {event.command}", True)
        elif isinstance(event, incidents.Resumed):
            self._say(event.why, True)
        elif isinstance(event, incidents.Relaunched):
            self._say(f"starting the script again: {event.why}", True)
        elif isinstance(event, events.End):
            self._say(f"done ({event.reason}); ending the script ...", True)

    def _tried(self, event: events.Progress) -> None:
        if self._began is None:
            self._began = time.monotonic()
        elif math.isfinite(self._began) and time.monotonic() - self._began > FIRST_BLOCK_SECONDS:
            self._began = math.inf
            self._first_block()
        used = max(0.0, self._budget - event.left)
        parts = [self._changes.get(part, part) for part in event.arm.split("+")]
        what = "your own settings" if event.arm in ("control", "A/A") else " and ".join(parts)
        doing = _DOING.get(event.phase, "trying")
        known = len(set(event.settled) & set(self._changes))
        of = f", {known} of {len(self._changes)} known" if self._changes else ""
        self._say(f"{doing}: {what} ... {used:.0f} of {self._budget:.0f} s{of}", False)

    def _first_block(self) -> None:
        """Where the time goes, as soon as that is known."""
        from perfdoc.core import step_log
        from perfdoc.core.durations import seconds
        from perfdoc.core.metrics import PHASES
        from perfdoc.report.summary import PHASE_WORDS

        files = sorted(self.folder.glob("steps-*.bin")) if self.folder is not None else []
        steps = [step for file in files for step in step_log.read(str(file)) if step.during in ("observed", "clock", "control")]
        if not steps:
            return
        # Medians: the first steps of a script take longer than its others.
        usual = [statistics.median(step.phases[place] for step in steps) for place in range(len(PHASES))]
        total = math.fsum(usual) or 1.0
        ranked = sorted(zip(usual, PHASES, strict=True), reverse=True)
        shares = [f"{PHASE_WORDS[name]} {one / total:.0%}" for one, name in ranked if one >= SMALL_SHARE * total]
        self._print_above(f"{seconds(statistics.median(step.seconds for step in steps))} a step: {', '.join(shares)}")

    def _top_lines(self, seen: Lines) -> None:
        """Which lines that is, and what they could give."""
        from perfdoc.diagnosis import time_by_line
        from perfdoc.report import cause_words

        found = time_by_line.of(self._loop, seen)
        for said in cause_words.most_costly(found, str(Path.cwd())) if found is not None else []:
            self._print_above(said)

    def _print_above(self, text: str) -> None:
        try:
            if self._live is not None:
                self._live.console.print(text, markup=False, highlight=False)
            else:
                self._stream.write(f"perfdoc: {text}\n")
                self._stream.flush()
        except OSError:
            self._gone()

    def _say(self, text: str, now: bool) -> None:
        try:
            self._print(text, now)
        except OSError:  # the terminal has gone: the scan goes on to its end, or is told to end
            self._gone()

    def _gone(self) -> None:
        self._terminal, self._printed = False, math.inf

    def _print(self, text: str, now: bool) -> None:
        if self._printed == math.inf:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now or time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            self._stream.write(f"perfdoc: {text}\n")
            self._stream.flush()
