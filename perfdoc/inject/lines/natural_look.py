"""Looks at the loop while it still runs as its author wrote it: which lines the steps' time goes to, and what is between steps.

It begins when the loop is known and ends before the loop is held. Nothing is switched and no block is counted meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from time import perf_counter

from perfdoc.capture import events
from perfdoc.capture.lines import Lines
from perfdoc.inject.lines import worker_files, worker_lines
from perfdoc.inject.lines.backward_lines import BackwardLines
from perfdoc.inject.lines.line_table import LineTable
from perfdoc.inject.lines.look_summary import StackReader, Steps, summarise
from perfdoc.inject.lines.stack_path import PYTHON, Path, Place, qualified_name
from perfdoc.inject.lines.stack_sampler import StackSampler
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.step_finder import Step

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
STRETCHES = 10
"""Maximum number of stretches."""


class NaturalLook:
    """One look at a loop that is known. ``budget``: seconds of the scan. ``shortest``: seconds that it takes at least."""

    def __init__(self, context: LoopContext, budget: float, shortest: float) -> None:
        self._loop, self._device, self._recorder = context.loop, context.device, context.recorder
        self._sampler = StackSampler(context.clock.thread, PERIOD)
        self._seconds = min(LONGEST, max(shortest, SHARE * budget))
        lengths = [handle.batches_an_epoch / handle.batches_a_step for handle in self._loop.loaders if handle.batches_an_epoch]
        waits = bool(lengths) and min(lengths) * self._loop.step_seconds < LONGEST_EPOCH
        self._longest = max(self._seconds, TURN_SHARE * budget) if waits else self._seconds
        self._free_turns = self._iterators = 0
        self._steps = Steps(0.0)
        self._turns = 0
        self._told = False
        self._backward: BackwardLines | None = None
        self._steps_to_trace = 0
        self.over = False

    def begin(self) -> None:
        """Look from here on: first at the backward pass of a few steps, since the script may end soon."""
        if not self._begin_tracing():
            self._begin_sampling()

    def _begin_sampling(self) -> None:
        self._free_turns, self._iterators = self._loop.free_turns(), self._loop.iterators()
        self._steps = Steps(perf_counter())
        self._sampler.start()

    def on_step(self, step: Step, regular: bool) -> bool:
        """A step has ended just now; whether enough was seen. ``regular``: it did what steps of this loop do."""
        if self._backward is not None and self._steps_to_trace:
            self._traced(self._backward)
            return False
        now = perf_counter()
        before, self._free_turns = self._free_turns, self._loop.free_turns()
        turned = self._free_turns > before
        self._steps.add(now, regular and not turned)
        self._turns += turned
        elapsed = now - self._steps.began
        if elapsed < (self._seconds if self._turns else self._longest):
            if elapsed >= self._seconds and not self._told:  # the turn of an epoch is waited for; the rest is told now
                self._told = True
                self._recorder.write(events.LinesSeen(record=self._lines()))
            return False
        return True

    def _begin_tracing(self) -> bool:
        """Trace the backward pass of a few steps, where that can be done and takes no long time."""
        steps = 3 if self._loop.step_seconds <= QUICK_STEP else 1 if self._loop.step_seconds <= SLOW_STEP else 0
        if not steps or self._device.asynchronous or self._loop.numbers is not None or not BackwardLines.possible():
            return False
        self._steps_to_trace = steps
        self._backward = self._loop.numbers = BackwardLines()
        self._backward.begin()
        return True

    def _traced(self, backward: BackwardLines) -> None:
        """A traced step has ended; after the last one samples are taken."""
        self._steps_to_trace -= 1
        if not self._steps_to_trace:
            self._end_tracing(backward)
            self._begin_sampling()

    def _end_tracing(self, backward: BackwardLines) -> None:
        backward.end()
        if self._loop.numbers is backward:
            self._loop.numbers = None

    def after_fork(self) -> None:
        """In a forked child: nothing of the look is left there."""
        self._sampler.after_fork()
        if self._backward is not None:
            self._backward.end()

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
        if self._steps.ends:
            self._recorder.write(events.LinesSeen(record=self._lines()))

    # -- from samples to paths

    def _lines(self) -> Lines:
        sampler = self._sampler
        seen = summarise(self._steps, sampler.samples, StackReader(sampler.codes, sampler.stacks), STRETCHES)

        workers = worker_files.read(
            self._recorder.run_dir, self._recorder.lap, {handle.site for handle in self._loop.loaders},
            lambda moment: seen.stretch_at(self._steps, moment, worker_lines.STRETCH))
        table, stretches = LineTable(), len(seen.stretch_seconds)
        return Lines(
            PERIOD, seen.steps, seen.stretch_seconds, seen.other_seconds, self._turns, table.lines,
            table.paths(seen.in_steps, stretches), table.paths({(path, 0): s for path, s in seen.between.items()}, 1),
            table.paths(self._by_forward_line(), 1), table.paths(workers, stretches),
            iterators=self._loop.iterators() - self._iterators,
        )

    def _by_forward_line(self) -> dict[tuple[Path, int], float]:
        """Seconds of the traced backward passes by the lines that made what they went through."""
        found: dict[tuple[Path, int], float] = defaultdict(float)
        for chain, seconds in (self._backward.seconds if self._backward is not None else {}).items():
            places = tuple(Place(code.co_filename, line, qualified_name(code), "") for code, line in chain)
            found[Path(places, "backward", PYTHON), 0] += seconds
        return found
