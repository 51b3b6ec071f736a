"""The step clock: where the time of a step goes, from the outside.

The training thread is always in exactly one phase; entering an inner phase stops the outer one's time (self time), so
that a closure called by ``LBFGS.step`` counts as forward and backward, not as optimizer. Time between the end of the
forward pass and the start of backward is the loss. Durations are seconds of ``time.perf_counter``.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

PHASES = ("data", "transfer", "forward", "loss", "backward", "optimizer", "other")
"""Phases of a step in the order in which they are stored."""

DATA, TRANSFER, FORWARD, LOSS, BACKWARD, OPTIMIZER, OTHER = range(len(PHASES))

DIVIDED = 0.25
"""Share of short steps, drawn at random, that are divided into phases; the others are timed as a whole."""
SHORT_STEP = 0.03
"""Seconds below which a step is short: there the 0.15 ms that its division takes on cold caches are more than 0.5%."""
UNDIVIDED = (math.nan,) * len(PHASES)
"""The phases of a step that was not divided."""


class Partial(NamedTuple):
    """What happened since the previous optimizer call: the unit from which steps are put together."""

    seconds: float
    phases: tuple[float, ...]
    """Seconds by phase, in the order of ``PHASES``; ``UNDIVIDED`` where only the whole was timed."""
    fetches: dict[int, int]
    """Batches fetched, by the loader's key."""
    forwards: int
    backwards: int
    optimizer_calls: int = 1
    """More than one where several partials were put together to a step."""


class Clock:
    """Phases of one thread, the one that trains.

    With a device that works asynchronously, :meth:`use_events` makes every phase change record a device event, and the
    device's time by phase is read off in :meth:`device_phases` after the block's synchronisation.
    """

    push: Callable[[int], Any]
    """Enter a phase."""
    pop: Callable[[], Any]
    """Leave the innermost phase."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.fetching = False
        """Whether a batch is being fetched right now."""
        self.sampling = False
        """Whether only some of the short steps are divided into phases."""
        self._draw = random.Random(0).random  # of its own: the user's generators are theirs
        self._divide(True)
        self._stack: list[int] = []
        self._now = OTHER
        self._after_forward: int | None = None
        self._events: list[tuple[int, Any]] | None = None
        self._make_event: Any = None
        self.restart()

    def restart(self) -> None:
        """Forget what was accumulated; the next partial starts here."""
        self._seconds = [0.0] * len(PHASES)
        self._pending = 0.0
        self.fetches: dict[int, int] = {}
        self.forwards = 0
        """Forward passes since then, and backward passes: counted by the caller."""
        self.backwards = 0
        self._last = self._start = perf_counter()

    def mine(self) -> bool:
        """Whether the calling thread is the one that trains."""
        return threading.get_ident() == self.thread

    def _divide(self, divided: bool) -> None:
        self._divided = divided
        # In a step that is not divided the calls do nothing, as cheaply as Python can.
        self.push, self.pop = (self._push, self._pop) if divided else (bool, bool)

    def _push(self, phase: int) -> None:
        now = perf_counter()
        outer = self._now
        if self._after_forward == outer:
            # What stands between forward and backward is the loss; before anything else it is other work.
            self._pending += now - self._last
            if phase == BACKWARD:
                self._seconds[LOSS] += self._pending
                self._pending, self._after_forward = 0.0, None
            elif phase in (DATA, OPTIMIZER):
                self._seconds[outer] += self._pending
                self._pending, self._after_forward = 0.0, None
        else:
            self._seconds[outer] += now - self._last
        self._stack.append(outer)
        self._now = phase
        self._last = now
        if self._events is not None:
            self._mark(phase)

    def _pop(self) -> None:
        now = perf_counter()
        self._seconds[self._now] += now - self._last
        ended, self._now = self._now, self._stack.pop() if self._stack else OTHER
        if ended == FORWARD:
            self._after_forward = self._now  # the loss is computed there: in the loop, or in a closure of the optimizer
        self._last = now
        if self._events is not None:
            self._mark(self._now)

    def cut(self) -> Partial:
        """End the current partial here (right after an optimizer call) and begin the next one."""
        now = perf_counter()
        seconds = now - self._start
        if self._divided:
            self._seconds[self._now] += now - self._last
            self._seconds[OTHER] += self._pending
            self._after_forward = None
            phases = tuple(self._seconds)
            self._seconds = [0.0] * len(PHASES)
            self._pending = 0.0
            self._last = now
        else:
            phases = UNDIVIDED
        partial = Partial(seconds, phases, self.fetches, self.forwards, self.backwards)
        self.fetches = {}
        self.forwards = self.backwards = 0
        self._start = now
        if self.sampling and not self._stack:
            divided = seconds > SHORT_STEP or self._draw() < DIVIDED
            if divided != self._divided:
                self._divide(divided)
                self._last = now
        return partial

    # -- devices that work asynchronously

    def use_events(self, make_event: Any) -> None:
        """Record ``make_event()`` (a ``torch.cuda.Event`` with timing) at every phase change from now on."""
        self._make_event = make_event
        self.sampling = False  # the device's time is read off by phase
        self._divide(True)
        self._events = []
        self._mark(self._now)

    def without_events(self) -> None:
        """Record no more of them."""
        self._events = None

    def _mark(self, phase: int) -> None:
        event = self._make_event()
        event.record()
        assert self._events is not None
        self._events.append((phase, event))

    def device_phases(self) -> tuple[float, ...] | None:
        """Device seconds by phase since the last call; the device must have been synchronised. None without events.

        Between two events the device worked on what the host had queued in that phase, or waited for the host.
        """
        if not self._events:
            return None
        seconds = [0.0] * len(PHASES)
        for (phase, start), (_, end) in zip(self._events, self._events[1:], strict=False):
            seconds[phase] += start.elapsed_time(end) / 1e3
        self._events = self._events[-1:]
        return tuple(seconds)
