"""Times one block after the other: steps to warm up, steps that count, and those in between that do not."""

from __future__ import annotations

import math
import resource
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING

from perfdoc.core.blocks import CONTROL_ARM, Block
from perfdoc.inject.experiment.requests import BlockRequest
from perfdoc.inject.experiment.switcher import Switcher
from perfdoc.inject.observe.loop_context import LoopContext

if TYPE_CHECKING:
    from perfdoc.inject.observe.step_finder import Step

LONGEST_BURST = 32
"""Maximum number of steps in a burst of the workers; where bursts are longer, blocks are not made of whole ones."""
BLOCK_SECONDS = 0.2
"""Aim for the counted part of a block, in seconds. On shared machines drift is the larger noise: in the same time, many short
blocks that alternate quickly know a ratio about twice as well as blocks of 0.4 s (``benchmarks/block_length.py``)."""
SHORT_BLOCK = 0.5
"""Minimum share of that aim for a block to end: one whose steps are faster than expected has more of them."""
MOST_STEPS = 400
"""Maximum number of counted steps of a block."""
SLOW_STEP = 0.25
"""Minimum duration of a step, in seconds, from which blocks are kept to two counted steps (or a burst of workers) and one of
warm-up."""
VERY_SLOW_STEP = 1.0
"""Minimum duration of a step, in seconds, from which the first block of an arm has no second step of warm-up either."""
WAITS = 0.05
"""Minimum share of the step spent waiting for data from which slow batches come in bursts that a block has to hold."""
MOST_PAUSES = 4
"""Maximum number of pauses in a block after which a step goes uncounted: of a script that saves at every step none would be."""
UNLIKE = 32
"""Maximum number of steps of a block of which none is like the loop's own (see ``Shape.regular``); then the arm is given up."""


class BlockState(Enum):
    """What became of a block at the end of a step."""

    RUNNING = "running"
    COMPLETE = "complete"
    UNLIKE = "unlike"
    """Many steps have run, and none was like those of the loop."""


class BlockTimer:
    """The blocks of one loop. ``waits``: whether the loop waits for data (see ``WAITS``)."""

    def __init__(self, context: LoopContext, switcher: Switcher) -> None:
        self.waits = True
        self.irregular = 0
        """Steps of the block that were not like the loop's own."""
        self._context = context
        self._loop = context.loop
        self._switcher = switcher
        self._index = 0
        self._entered: set[str] = set()
        self._settling = self._pauses = 0
        self._warm_left = 0
        self._wanted = self._period = 1
        self._warmup: list[float] = []
        self._steps: list[float] = []
        self._irregular_seconds = 0.0
        self._switch_seconds = 0.0
        self._drained = 0
        self._began = 0.0
        self._faults = 0

    @property
    def counting(self) -> bool:
        """Whether the current step counts, and is not warm-up."""
        return self._warm_left == 0

    def entered(self) -> set[str]:
        """Names of the arms that had a block begin."""
        return self._entered

    def begin(self, request: BlockRequest, switch_seconds: float, drained: int, sources_changed: bool) -> None:
        """The arm of ``request`` is on, its warm-up begins.

        ``drained``: batches that were thrown away. ``sources_changed``: whether batches come from elsewhere than before.
        """
        first = request.arm not in self._entered
        self._entered.add(request.arm)
        self._switch_seconds, self._drained = switch_seconds, drained
        self._settling = self._pauses = 0
        self._warmup, self._steps = [], []
        self.irregular, self._irregular_seconds = 0, 0.0
        served_anew = self._index == 0 or drained > 0 or sources_changed
        step = self._loop.step_seconds * self._switcher.work(request.config)
        self._warm_left = self._warmup_steps(step, first, served_anew)
        self._period = math.lcm(self._switcher.period(request.config), self._burst())
        self._wanted = -(-self._block_steps(step) // self._period) * self._period
        self._context.clock.restart()

    def paused(self) -> None:
        """What is on is taken back for a while, in the midst of the block."""
        self._pauses += 1

    def resumed(self) -> None:
        """It is on again: the next step is not counted, unless that happens all the time."""
        self._settling = 1 if self._pauses <= MOST_PAUSES else 0

    # -- how many steps

    def _warmup_steps(self, step: float, first: bool, served_anew: bool) -> int:
        """Uncounted steps of a block whose steps are expected to take ``step`` seconds."""
        if step > SLOW_STEP:
            return 2 if first and step < VERY_SLOW_STEP else 1
        # The first batches of workers that were just drained, resumed or started come late.
        workers = served_anew and any(handle.workers for handle in self._loop.loaders)
        fewest = (3 if first else 1) + (1 if workers else 0)
        return min(max(fewest, math.ceil((0.2 if first else 0.03) / step)), 40)

    def _burst(self) -> int:
        """Steps in which every worker delivers once: a block that ends within a burst has part of it too much or too little."""
        if self._loop.step_seconds > SLOW_STEP or not self.waits:
            return 1
        steps = math.lcm(1, *(
            handle.workers // math.gcd(handle.workers, handle.batches_a_step) for handle in self._loop.loaders if handle.workers
        ))
        return steps if steps <= LONGEST_BURST else 1

    def _block_steps(self, step: float) -> int:
        """Counted steps of a block whose steps are expected to take ``step`` seconds."""
        # Workers deliver in bursts of their number: a block must hold at least two, or one where steps are slow.
        workers = max((handle.workers for handle in self._loop.loaders), default=0)
        if step > SLOW_STEP:
            return max(2, min(workers, 4)) if self.waits else 2
        bursts = 2 * workers
        return max(3, min(bursts, 16), min(math.ceil(BLOCK_SECONDS / step), MOST_STEPS))

    # -- steps

    def on_step(self, step: Step, regular: bool, turned: bool, control: bool) -> BlockState:
        """A step has ended. ``turned``: an epoch ended within it. ``control``: it ran under the user's own settings."""
        if self._settling > 0 and not turned and self._warm_left <= 0:
            self._settling -= 1
            self._irregular_seconds += step.seconds
            return BlockState.RUNNING
        if self._warm_left > 0:
            self._warmup.append(step.seconds)
            self._warm_left -= 1
            if self._warm_left == 0:
                self._begin_counting()
            return BlockState.RUNNING
        if regular:
            self._steps.append(step.seconds)
        else:
            self.irregular += 1
            self._irregular_seconds += step.seconds
            if self.irregular >= UNLIKE and self.irregular > 4 * len(self._steps) and control:
                self._loop.finder.relax()
            if not self._steps and self.irregular >= UNLIKE:
                return BlockState.UNLIKE
        seconds = math.fsum(self._steps)
        slow = seconds > 6 * BLOCK_SECONDS and len(self._steps) >= 3
        whole = len(self._steps) % self._period == 0
        if len(self._steps) >= self._wanted and not self._extended(seconds):
            return BlockState.COMPLETE
        return BlockState.COMPLETE if slow and self._wanted > 3 and whole else BlockState.RUNNING

    def _extended(self, seconds: float) -> bool:
        """Whether the block goes on for some steps, because its steps are much faster than the loop's own.

        A change that makes a step ten times as fast would be known from a tenth of the time that the control is, and every
        combination with it would look alike. ``seconds``: of the steps so far.
        """
        count = len(self._steps)
        if self._context.device.asynchronous or not 0 < seconds < SHORT_BLOCK * BLOCK_SECONDS or count >= MOST_STEPS:
            return False
        wanted = min(MOST_STEPS, math.ceil(BLOCK_SECONDS * count / seconds))
        self._wanted = -(-wanted // self._period) * self._period
        return self._wanted > count

    def _begin_counting(self) -> None:
        self._context.device.wait()
        self._context.device.restart_peak()
        self._context.clock.restart()
        self._faults = _page_faults()
        self._began = perf_counter()

    def end(self, request: BlockRequest) -> Block:
        """The block that has run. Its seconds are the wall's where the device is asynchronous, else the sum of its steps."""
        device = self._context.device
        device.wait()
        seconds = math.fsum(self._steps)
        if device.asynchronous:
            seconds = perf_counter() - self._began - self._irregular_seconds
        faults = _page_faults() - self._faults
        phases = self._context.clock.device_phases()
        if phases is not None:
            phases = tuple(value / len(self._steps) for value in phases) if request.arm == CONTROL_ARM else None
        block = Block(
            lap=self._context.recorder.lap,
            i=self._index,
            arm=request.arm,
            phase=request.phase,
            count=len(self._steps),
            seconds=seconds,
            steps=[] if device.asynchronous else [round(s, 7) for s in self._steps],
            warmup=[round(s, 7) for s in self._warmup],
            switch=round(self._switch_seconds, 6),
            drained=self._drained,
            irregular=self.irregular,
            faults=faults,
            device_phases=None if phases is None else list(phases),
            work=self._switcher.work(request.config),
            peak=device.peak(),
        )
        self._index += 1
        return block


def _page_faults() -> int:
    """Page faults of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
