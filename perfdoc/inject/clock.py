"""The step clock: where the time of a step goes, from the outside.

The training thread is always in exactly one phase; entering an inner phase stops the outer one's time (self time), so
that a closure called by ``LBFGS.step`` counts as forward and backward, not as optimizer. Time between the end of the
forward pass and the start of backward is the loss. Durations are seconds of ``time.perf_counter``.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any, NamedTuple

PHASES = ("data", "transfer", "forward", "loss", "backward", "optimizer", "other")
"""Phases of a step in the order in which they are stored."""

DATA, TRANSFER, FORWARD, LOSS, BACKWARD, OPTIMIZER, OTHER = range(len(PHASES))


class Partial(NamedTuple):
    """What happened since the previous optimizer call: the unit from which steps are put together."""

    seconds: float
    phases: tuple[float, ...]
    """Seconds by phase, in the order of ``PHASES``."""
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

    def __init__(self) -> None:
        self.thread = threading.get_ident()
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
        self.backwards = 0
        self._last = self._start = perf_counter()

    def mine(self) -> bool:
        """Whether the calling thread is the one that trains."""
        return threading.get_ident() == self.thread

    def in_data(self) -> bool:
        """Whether a batch is being fetched right now."""
        return self._now == DATA

    def push(self, phase: int) -> None:
        """Enter ``phase``."""
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
        if phase == FORWARD:
            self.forwards += 1
        elif phase == BACKWARD:
            self.backwards += 1
        if self._events is not None:
            self._mark(phase)

    def pop(self) -> None:
        """Leave the innermost phase."""
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
        self._seconds[self._now] += now - self._last
        self._seconds[OTHER] += self._pending
        self._after_forward = None
        partial = Partial(now - self._start, tuple(self._seconds), self.fetches, self.forwards, self.backwards)
        self._seconds = [0.0] * len(PHASES)
        self._pending = 0.0
        self.fetches = {}
        self.forwards = self.backwards = 0
        self._last = self._start = now
        return partial

    # -- devices that work asynchronously

    def use_events(self, make_event: Any) -> None:
        """Record ``make_event()`` (a ``torch.cuda.Event`` with timing) at every phase change from now on."""
        self._make_event = make_event
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
