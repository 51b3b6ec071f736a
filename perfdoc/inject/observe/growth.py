"""What grows while the loop runs, seen at the ends of blocks of the user's own settings: seconds by phase, memory, denormals.

Imports no torch: a loop of plain Python can be watched as well.
"""

from __future__ import annotations

import importlib
import itertools
import math
import statistics
import traceback
from time import perf_counter
from typing import TYPE_CHECKING, Any

from perfdoc.capture import events, incidents
from perfdoc.capture.records import Moment
from perfdoc.core.blocks import Block
from perfdoc.core.metrics import PHASES
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.system import process_use

if TYPE_CHECKING:
    from perfdoc.inject.observe.step_finder import Step

SIZES_SECONDS = 0.5
"""Minimum time between two readings of sizes, in seconds, because one of a large process takes some milliseconds."""
GROWN_BYTES = 2**28
GROWN_SHARE = 0.02
RISES = 4
STEADY = 0.1
"""Once it is longer than it would be without perfdoc, the epoch is left where the process has grown by 256 MiB and by 2% of the
memory that was free, and goes on: by each of the last four readings, by none less than a tenth of another. What a script
collects over an epoch is dropped at its end."""
SLOWER = 1.5
SLOWER_SHARE = 0.2
FIRST, LAST = 2, 3
"""The same where what stands between the calls of a step takes half as long again as in the first two blocks, and a fifth of
the step more, in the median of the last three."""
LOW_SHARE = 0.5
IDLE_SHARE = 0.1
"""Workers of other arms are ended where half of the memory that was free at first is gone, and they have a tenth of it."""
BETWEEN = tuple(PHASES.index(phase) for phase in ("loss", "other"))
"""Phases in which scripts collect what they drop at the end of an epoch."""


class GrowthWatch:
    """The growth of one loop. Called at the boundaries of steps, on the training thread."""

    def __init__(self, context: LoopContext) -> None:
        self._context = context
        self._loop = context.loop
        self._began = perf_counter()
        self._read_at = -SIZES_SECONDS
        self._phases: list[tuple[float, ...]] = []
        """Seconds by phase of the steps of the block that count."""
        self._work = 0
        self._sizes: list[int] = []
        """Memory at each reading, in bytes."""
        self._free_at_first = 0
        self._strange_state = False
        """Whether the optimizers' state could not be looked at."""
        self._seconds: list[float] = []
        """Seconds a step between its calls, by block."""

    def begin(self) -> None:
        """A block begins, of any arm: what weighing costs, it costs all of them."""
        self._loop.weighing = True
        self._loop.weight = 0
        self._work = 0
        self._phases = []

    def on_step(self, step: Step, counted: bool) -> None:
        """A step of a block has ended, of any arm, for the same reason."""
        if counted:
            self._phases.append(step.phases)
            self._work += self._loop.weight
        self._loop.weight = 0

    def ended(self, block: Block) -> str:
        """A block of the control has ended: write down what there is to know. Why the epoch should end, or an empty string."""
        if not self._phases or (self._context.device.asynchronous and block.device_phases is None):
            return ""  # of A/A blocks on a device only the whole is known
        moment = self._moment(block)
        self._context.recorder.write(events.MomentPassed(record=moment))
        if moment.free is not None:
            self._spare(moment.free)
        return self._reason(moment)

    # -- what is read

    def _moment(self, block: Block) -> Moment:
        now = perf_counter() - self._began
        count = len(self._phases)
        phases = block.device_phases or [math.fsum(column) / count for column in zip(*self._phases, strict=True)]
        sizes: dict[str, Any] = {}
        if now - self._read_at >= SIZES_SECONDS:
            sizes = self._read_sizes()
            self._read_at = perf_counter() - self._began
        return Moment(
            lap=block.lap,
            i=block.i,
            steps=self._loop.optimizer_calls // max(1, self._loop.calls_a_step),
            seconds=round(now, 3),
            count=count,
            phases=[round(seconds, 8) for seconds in phases],
            position=next((handle.epoch.position for handle in self._loop.loaders), None),
            work=self._work / count if self._work else None,
            **sizes,
        )

    def _read_sizes(self) -> dict[str, Any]:
        pids = [pid for handle in self._loop.loaders for pid in handle.pids]
        found = [(pid, size) for pid in pids if (size := process_use.unshared_memory(pid)) is not None]
        return {
            "memory": process_use.anonymous_memory(),
            "free": process_use.free_memory(),
            "device_memory": self._context.device.allocated(),
            "workers": found or None,
            "batches": sum(handle.served for handle in self._loop.loaders) if found else None,
            "denormals": self._denormals(),
        }

    def _denormals(self) -> float | None:
        if not self._loop.optimizers or self._context.device.asynchronous or self._strange_state:
            return None
        counting: Any = importlib.import_module("perfdoc.inject.observe.denormals")  # torch: the rest does without
        try:
            share: float | None = counting.share(self._loop.optimizers)
        except Exception:  # optimizers of any kind: the script goes on; recorded with its traceback, and not asked again
            self._strange_state = True
            self._context.recorder.write(incidents.ProbeFailed(probe="denormals", error=traceback.format_exc(limit=5)))
            return None
        return share

    def _spare(self, free: int) -> None:
        """End workers that wait for their arm's next block where memory runs short and they have much of it."""
        self._free_at_first = self._free_at_first or free
        if free > LOW_SHARE * self._free_at_first:
            return
        idle = [pid for handle in self._loop.loaders for pid in handle.idle_pids]
        if sum(process_use.unshared_memory(pid) or 0 for pid in idle) > IDLE_SHARE * self._free_at_first:
            for handle in self._loop.loaders:
                handle.close_idle()

    # -- whether the epoch should end

    def _reason(self, moment: Moment) -> str:
        self._seconds.append(math.fsum(moment.phases[place] for place in BETWEEN))
        if moment.memory is not None:
            self._sizes.append(moment.memory + (moment.device_memory or 0))
        if not self._loop.overran or self._loop.natural:
            return ""
        rises = [after - before for before, after in itertools.pairwise(self._sizes[-RISES - 1:])]
        steady = len(rises) == RISES and min(rises) > STEADY * max(rises)
        if steady and self._sizes[-1] - self._sizes[0] > max(GROWN_BYTES, GROWN_SHARE * self._free_at_first):
            return "the process grows while its epoch does not end"
        if len(self._seconds) >= FIRST + LAST:
            before, now = statistics.median(self._seconds[:FIRST]), statistics.median(self._seconds[-LAST:])
            if now > SLOWER * before and now - before > SLOWER_SHARE * math.fsum(moment.phases):
                return "its steps get slower while its epoch does not end"
        return ""
