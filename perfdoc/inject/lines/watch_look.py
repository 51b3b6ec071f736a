"""Looks at a whole run (``perfdoc watch``): the same as ``natural_look``, sampled less often, summed up from time to time.

A run may take days, so samples are summed up in windows, and windows of a long run are joined two by two: what is kept stays
small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from perfdoc.capture import events
from perfdoc.capture.lines import Lines
from perfdoc.inject.lines import worker_files
from perfdoc.inject.lines.line_table import LineTable
from perfdoc.inject.lines.look_summary import StackReader, Steps, summarise
from perfdoc.inject.lines.stack_path import Path
from perfdoc.inject.lines.stack_sampler import StackSampler
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.step_finder import Step

PERIOD = 0.02
"""Seconds between two samples: taking one costs some 15 microseconds of the thread's time, 0.1%."""
WINDOW = 5.0
WINDOW_STEPS = 5
"""Minimum length of a window, in seconds, and minimum number of its steps: fewer do not tell an ordinary step."""
MOST_WINDOWS = 20
"""Maximum number of windows before they are joined two by two."""
FIRST_WRITE, LAST_WRITE = 10.0, 600.0
"""Seconds between two times of writing what was seen so far, at first and at most: after a kill the last one is there."""


@dataclass
class Window:
    """What was seen in some steps in a row."""

    steps: int = 0
    seconds: float = 0.0
    other_seconds: float = 0.0
    in_steps: dict[Path, float] = field(default_factory=dict)
    between: dict[Path, float] = field(default_factory=dict)

    def joined(self, other: Window) -> Window:
        """Both as one."""
        return Window(self.steps + other.steps, self.seconds + other.seconds, self.other_seconds + other.other_seconds,
                      _added(self.in_steps.items(), other.in_steps), _added(self.between.items(), other.between))


def _added(first: Iterable[tuple[Path, float]], second: Mapping[Path, float]) -> dict[Path, float]:
    found: dict[Path, float] = defaultdict(float, second)
    for path, seconds in first:
        found[path] += seconds
    return dict(found)


class WatchLook:
    """The look at a loop that is known, until the script ends."""

    def __init__(self, context: LoopContext) -> None:
        self._loop, self._recorder, self._clock = context.loop, context.recorder, context.clock
        self._sampler = StackSampler(context.clock.thread, PERIOD, gentle=True)
        self._reader = StackReader(self._sampler.codes, self._sampler.stacks)
        self.windows: list[Window] = []
        self._steps = Steps(0.0)
        self._end = self._first = 0.0
        """End of the last step, and begin of the look."""
        self._free_turns = self._turns = self._iterators = 0
        self._write_after = FIRST_WRITE

    def begin(self) -> None:
        """Look from here on. Called between two steps."""
        self._clock.restart()
        self._end = self._first = self._clock.last_sign()
        self._steps = Steps(self._end)
        self._free_turns, self._iterators = self._loop.free_turns(), self._loop.iterators()
        self._sampler.start()

    def on_step(self, step: Step, regular: bool) -> bool:
        """A step has ended, may be some time ago; False: it is never enough."""
        self._end += step.seconds
        before, self._free_turns = self._free_turns, self._loop.free_turns()
        turned = self._free_turns > before
        self._turns += self._free_turns - before
        self._steps.add(self._end, regular and not turned)
        if self._end - self._steps.began >= WINDOW and len(self._steps.ends) >= WINDOW_STEPS:
            self._sum_up()
            if self._end - self._first >= self._write_after:
                self._write_after = min(2 * self._write_after, self._write_after + LAST_WRITE)
                self._recorder.write(events.LinesSeen(record=self._lines()))
        return False

    def after_fork(self) -> None:
        """In a forked child: nothing of the look is left there."""
        self._sampler.after_fork()

    def end(self) -> None:
        """Stop looking, and record what was seen."""
        self._sampler.stop()
        self._sum_up()
        if self.windows:
            self._recorder.write(events.LinesSeen(record=self._lines()))

    def _sum_up(self) -> None:
        """Make a window of the steps so far. Samples of the step that runs are left out of it."""
        steps, samples = self._steps, self._sampler.take()
        self._steps = Steps(self._end)
        if not steps.ends:
            return
        seen = summarise(steps, samples, self._reader, 1)
        self.windows.append(Window(
            seen.steps, sum(seen.stretch_seconds), seen.other_seconds,
            {path: seconds for (path, _), seconds in seen.in_steps.items()}, seen.between))
        if len(self.windows) > MOST_WINDOWS:
            pairs = zip(self.windows[::2], self.windows[1::2], strict=False)
            last = [self.windows[-1]] if len(self.windows) % 2 else []
            self.windows = [one.joined(other) for one, other in pairs] + last

    def _lines(self) -> Lines:
        table, windows = LineTable(), [window for window in self.windows if window.steps]
        between: dict[Path, float] = {}
        for window in self.windows:
            between = _added(window.between.items(), between)
        began, whole = self._first, max(1e-9, self._end - self._first)
        ends = [sum(w.seconds + w.other_seconds for w in windows[: n + 1]) for n in range(len(windows))]

        def stretch_of(moment: float) -> int | None:
            """A moment's window, by its place in the run: windows follow one another. It may be half a minute off."""
            place = min(1.0, max(0.0, (moment - began) / whole)) * (ends[-1] if ends else 0.0)
            return next((n for n, end in enumerate(ends) if place <= end), None)

        workers = worker_files.read(
            self._recorder.run_dir, self._recorder.lap, {handle.site for handle in self._loop.loaders}, stretch_of)
        return Lines(
            PERIOD, sum(w.steps for w in windows), [w.seconds for w in windows], sum(w.other_seconds for w in self.windows),
            self._turns, table.lines,
            table.paths({(path, n): s for n, w in enumerate(windows) for path, s in w.in_steps.items()}, len(windows)),
            table.paths({(path, 0): seconds for path, seconds in between.items()}, 1), [], table.paths(workers, len(windows)),
            iterators=self._loop.iterators() - self._iterators,
        )
