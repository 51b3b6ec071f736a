"""Looks at the loop while it still runs as its author wrote it: which lines the steps' time goes to, and what is between steps.

It begins when the loop is known and ends before the loop is held. Nothing is switched and no block is counted meanwhile.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from time import perf_counter

from perfdoc.capture import events
from perfdoc.capture.lines import Line, Lines, StackPath
from perfdoc.inject.lines import worker_files, worker_lines
from perfdoc.inject.lines.backward_lines import BackwardLines
from perfdoc.inject.lines.stack_path import PYTHON, Path, PathReader, Place, qualified_name
from perfdoc.inject.lines.stack_sampler import StackSampler
from perfdoc.inject.observe.loop_context import LoopContext

PERIOD = 0.004
"""Seconds between two samples: taking one costs about 15 microseconds of the thread's time, 0.4%."""
SHARE = 0.04
"""Share of the scan's budget that the look takes."""
LONGEST = 6.0
"""Maximum of that, in seconds: 1500 samples, which tell a share of 30% to within 2.5 points."""
TURN_SHARE = 1 / 6
"""Maximum share of the budget for which the turn of an epoch is waited for, where epochs are short."""
LONGEST_EPOCH = 20.0
"""Maximum length of an epoch, in seconds, whose turn is waited for."""
QUICK_STEP, SLOW_STEP = 0.2, 1.0
"""Maximum length of a step, in seconds, of which three, or one, are traced: traced Python code takes several times as long."""
LONG_STEP = 3.0
"""Minimum length, in times of the median step, of a step that is taken to hold more than steps do."""
STRETCHES = 10
"""Maximum number of stretches."""
LEAST_SHARE = 0.001
"""Minimum share of the time for a stack to be kept in full; the time of rarer ones is kept at the place that they came from."""
LONGEST_TEXT = 160


class NaturalLook:
    """One look at a loop that is known. ``budget``: seconds of the scan. ``shortest``: seconds that it takes at least."""

    def __init__(self, context: LoopContext, budget: float, shortest: float) -> None:
        self._loop, self._device, self._recorder = context.loop, context.device, context.recorder
        self._sampler = StackSampler(context.clock.thread, PERIOD)
        self._seconds = min(LONGEST, max(shortest, SHARE * budget))
        lengths = [handle.batches_an_epoch / handle.batches_a_step for handle in self._loop.loaders if handle.batches_an_epoch]
        waits = bool(lengths) and min(lengths) * self._loop.step_seconds < LONGEST_EPOCH
        self._longest = max(self._seconds, TURN_SHARE * budget) if waits else self._seconds
        self._free_turns = self._loop.free_turns()
        self._began = 0.0
        self._ends: list[float] = []
        """When each step ended."""
        self._ordinary: list[bool] = []
        self._turns = 0
        self._backward: BackwardLines | None = None
        self._steps_to_trace = 0
        self.over = False

    def begin(self) -> None:
        """Look from here on."""
        self._began = perf_counter()
        self._sampler.start()

    def on_step(self, regular: bool) -> bool:
        """A step has ended; whether enough was seen. ``regular``: it did what steps of this loop do."""
        if self._backward is not None:
            return self._traced(self._backward)
        now = perf_counter()
        before, self._free_turns = self._free_turns, self._loop.free_turns()
        turned = self._free_turns > before
        self._ends.append(now)
        self._ordinary.append(regular and not turned)
        self._turns += turned
        if now - self._began < (self._seconds if self._turns else self._longest):
            return False
        self._sampler.stop()
        return not self._begin_tracing()

    def _begin_tracing(self) -> bool:
        """Trace the backward pass of a few more steps, where that can be done and takes no long time."""
        steps = 3 if self._loop.step_seconds <= QUICK_STEP else 1 if self._loop.step_seconds <= SLOW_STEP else 0
        if not steps or self._device.asynchronous or self._loop.numbers is not None or not BackwardLines.possible():
            return False
        self._steps_to_trace = steps
        self._backward = self._loop.numbers = BackwardLines()
        self._backward.begin()
        return True

    def _traced(self, backward: BackwardLines) -> bool:
        """A traced step has ended; whether it was the last one."""
        self._steps_to_trace -= 1
        if self._steps_to_trace <= 0:
            self._end_tracing(backward)
        return self._steps_to_trace <= 0

    def _end_tracing(self, backward: BackwardLines) -> None:
        backward.end()
        if self._loop.numbers is backward:
            self._loop.numbers = None

    def end(self) -> None:
        """Stop looking, and record what was seen."""
        if self.over:
            return
        self.over = True
        self._sampler.stop()
        if self._backward is not None:
            self._end_tracing(self._backward)
        with contextlib.suppress(OSError):  # a full disk: the workers stop by themselves
            open(os.path.join(self._recorder.run_dir, worker_lines.OVER), "wb").close()
        if self._ends:
            self._recorder.write(events.LinesSeen(record=self._lines()))

    # -- from samples to paths

    def _lines(self) -> Lines:
        starts = [self._began, *self._ends[:-1]]
        lengths = [end - start for start, end in zip(starts, self._ends, strict=True)]
        usual = statistics.median([n for n, o in zip(lengths, self._ordinary, strict=True) if o] or lengths)
        ordinary = self._without_other_work(lengths, usual)
        stretch_of_step = _stretches(ordinary)
        stretches = max((s for s in stretch_of_step if s is not None), default=-1) + 1
        in_stretch, other = [0.0] * stretches, 0.0
        for length, stretch in zip(lengths, stretch_of_step, strict=True):
            if stretch is None:
                other += max(0.0, length - usual)
            else:
                in_stretch[stretch] += length
        in_steps, long_steps = self._by_step(stretch_of_step)
        between = _beyond_steps(long_steps, in_steps, sum(ordinary), lengths, usual)

        def stretch_of(moment: float) -> int | None:
            step = bisect_left(self._ends, moment)
            return stretch_of_step[step] if moment > self._began and step < len(self._ends) else None

        workers = worker_files.read(
            self._recorder.run_dir, self._recorder.lap, {handle.site for handle in self._loop.loaders}, stretch_of)
        table = _Table()
        return Lines(
            PERIOD, sum(ordinary), in_stretch, other, self._turns, table.lines, table.paths(in_steps, stretches),
            table.paths({(path, 0): s for path, s in between.items()}, 1), table.paths(self._by_forward_line(), 1),
            table.paths(workers, stretches),
        )

    def _by_forward_line(self) -> dict[tuple[Path, int], float]:
        """Seconds of the traced backward passes by the lines that made what they went through."""
        found: dict[tuple[Path, int], float] = defaultdict(float)
        for chain, seconds in (self._backward.seconds if self._backward is not None else {}).items():
            places = tuple(Place(code.co_filename, line, qualified_name(code), "") for code, line in chain)
            found[Path(places, "backward", PYTHON), 0] += seconds
        return found

    def _without_other_work(self, lengths: Sequence[float], usual: float) -> list[bool]:
        """Of every step whether it is an ordinary one. A long one that did what the others do is: the machine stalled."""
        short = [o and n <= LONG_STEP * usual for n, o in zip(lengths, self._ordinary, strict=True)]
        in_steps, others = self._by_step([0 if one else None for one in short])
        known = {path for path, _ in in_steps}
        return [
            one or (regular and sum(s for path, s in others[n].items() if path in known) > sum(others[n].values()) / 2)
            for n, (one, regular) in enumerate(zip(short, self._ordinary, strict=True))
        ]

    def _by_step(
        self, stretch_of_step: Sequence[int | None],
    ) -> tuple[dict[tuple[Path, int], float], dict[int, dict[Path, float]]]:
        """Seconds by path and stretch of the ordinary steps, and by path of each of the others."""
        sampler = self._sampler
        reader = PathReader(sampler.codes)
        paths: dict[int, Path] = {}
        in_steps: dict[tuple[Path, int], float] = defaultdict(float)
        others: dict[int, dict[Path, float]] = defaultdict(lambda: defaultdict(float))
        for at, weight, place in zip(sampler.times, sampler.weights, sampler.found, strict=True):
            step = bisect_left(self._ends, at - weight / 2)
            if step >= len(self._ends):
                break
            if place not in paths:
                paths[place] = reader.read(sampler.stacks[place])
            stretch = stretch_of_step[step]
            if stretch is None:
                others[step][paths[place]] += weight
            else:
                in_steps[paths[place], stretch] += weight
        return in_steps, others


def _stretches(ordinary: Sequence[bool]) -> list[int | None]:
    """The stretch of every ordinary step; None for the others."""
    count = sum(ordinary)
    stretches = min(STRETCHES, count)
    found: list[int | None] = []
    before = 0
    for one in ordinary:
        found.append(before * stretches // count if one else None)
        before += one
    return found


def _beyond_steps(
    long_steps: Mapping[int, Mapping[Path, float]], in_steps: Mapping[tuple[Path, int], float], ordinary: int,
    lengths: Sequence[float], usual: float,
) -> dict[Path, float]:
    """What the steps that were no ordinary ones did beyond what ordinary ones do, in seconds by path.

    A step with the turn of an epoch in it is a step too: what an ordinary one does by path is taken off it.
    """
    step: dict[Path, float] = defaultdict(float)
    for (path, _), seconds in in_steps.items():
        step[path] += seconds / max(1, ordinary)
    found: dict[Path, float] = defaultdict(float)
    for number, seconds_of in long_steps.items():
        beyond = {path: seconds - step[path] for path, seconds in seconds_of.items() if seconds > step[path]}
        total, excess = sum(beyond.values()), max(0.0, lengths[number] - usual)
        for path, seconds in beyond.items():
            found[path] += seconds * excess / total
    return found


class _Table:
    """Lines by number, and paths that refer to them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._numbers: dict[Place, int] = {}

    def _number(self, place: Place) -> int:
        if place not in self._numbers:
            self._numbers[place] = len(self.lines)
            text = "" if place.package else linecache.getline(place.file, place.line).strip()[:LONGEST_TEXT]
            file = place.file if place.package else os.path.abspath(place.file)
            self.lines.append(Line(file, place.line, place.function, place.package, text))
        return self._numbers[place]

    def paths(self, seconds: Mapping[tuple[Path, int], float], stretches: int) -> list[StackPath]:
        """The paths, the longest first, with their seconds in each stretch."""
        rows: dict[Path, list[float]] = {}
        for (path, stretch), value in seconds.items():
            rows.setdefault(path, [0.0] * stretches)[stretch] += value
        least = LEAST_SHARE * sum(map(sum, rows.values()))
        _shorten(rows, least)
        order = sorted(rows, key=lambda path: -sum(rows[path]))
        return [StackPath([self._number(place) for place in path.places], path.phase, path.leaf,
                          [round(value, 6) for value in rows[path]]) for path in order]


def _shorten(rows: dict[Path, list[float]], least: float) -> None:
    """Keep the time of rare paths at the place that they came from, until nothing rarer than ``least`` is left with one."""
    depth = max((len(path.places) for path in rows), default=0)
    while depth:
        for path in [p for p in rows if len(p.places) == depth and sum(rows[p]) < least]:
            values = rows.pop(path)
            parent = Path(path.places[:-1] or path.places, path.phase, PYTHON)
            into = rows.setdefault(parent, [0.0] * len(values))
            rows[parent] = [a + b for a, b in zip(into, values, strict=True)]
        depth -= 1
