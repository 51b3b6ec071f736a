"""What a watched run is doing: plain lines from time to time, or a screen that renews itself."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from perfdoc.capture import events
from perfdoc.capture.event import Event
from perfdoc.capture.lines import Lines
from perfdoc.capture.records import Loop

if TYPE_CHECKING:
    from perfdoc.diagnosis.time_by_line import TimeByLine


class WatchProgress:
    """Shows on ``stream`` what the process that trains writes. ``live``: on a screen of its own, where it is a terminal."""

    def __init__(self, stream: TextIO, live: bool) -> None:
        self._stream = stream
        self._wants_live = live and stream.isatty()
        self._live: Any = None
        self._loop: Loop | None = None
        self._began = time.monotonic()

    def __enter__(self) -> WatchProgress:
        if self._wants_live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=True, redirect_stdout=False,
                              redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            try:
                self._live.stop()
            except OSError:  # the terminal has gone
                pass

    def show(self, event: Event) -> None:
        """Take notice of one event."""
        if isinstance(event, events.LoopFound):
            self._loop = event.record
        elif isinstance(event, events.LinesSeen):
            from perfdoc.diagnosis import time_by_line

            found = time_by_line.of(self._loop, event.record)
            if found is not None:
                self._say(_lines(found, event.record, time.monotonic() - self._began))

    def _say(self, lines: list[str]) -> None:
        try:
            if self._live is not None:
                from rich.text import Text

                self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            else:
                self._stream.write("".join(f"perfdoc: {line}\n" for line in lines))
                self._stream.flush()
        except OSError:  # the terminal has gone: the script goes on
            self._live = None


def _lines(found: TimeByLine, seen: Lines, elapsed: float) -> list[str]:
    """What was seen so far. ``elapsed``: seconds since the command was started."""
    from perfdoc.core.durations import seconds
    from perfdoc.report import cause_words

    outside = f", {found.outside_steps:.0%} of the run is no step" if found.outside_steps >= cause_words.IN_TABLE else ""
    time_so_far = f"{elapsed:.0f} s" if elapsed < 120 else f"{elapsed / 60:.0f} min"
    first = f"{time_so_far}: {seen.steps:,} steps, {seconds(found.step)} a step{outside}"
    return [first, *cause_words.most_costly(found, str(Path.cwd()))]
