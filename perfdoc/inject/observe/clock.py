"""The step clock: where the time of a step goes, from the outside.

The training thread is always in exactly one phase; entering an inner phase stops the outer one's time (self time), so
that a closure called by ``LBFGS.step`` counts as forward and backward, not as optimizer. Time between the end of the
forward pass and the start of backward is the loss. Durations are seconds of ``time.perf_counter``.

While the loop runs only marks are made, a code and a time each. What they mean is worked out later and for several steps
at once: code that runs once a step is cold by then, evicted by the user's own tensors, and takes several times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

from perfdoc.core.metrics import PHASES

DATA, TRANSFER, FORWARD, LOSS, BACKWARD, OPTIMIZER, OTHER = range(len(PHASES))

LEAVE, CUT, FETCHED = -1, -2, -3
"""Marks that enter no phase: the innermost one is left, a partial ends, or a fetch ends with a batch of the loader whose
key is ``FETCHED - mark``."""
LONGEST_KEPT = 0.1
"""Seconds of marks that may wait to be worked out: this much of the measurement is lost if the process is killed."""
MOST_KEPT = 512
"""Marks that may wait: few enough to stay in the processor's cache."""


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
        self.touched = 0.0
        """Time at which a pause of the whole process was noticed, which is no pause of the loop."""
        self.fetching = False
        """Whether a batch is being fetched right now."""
        self._marks: list[tuple[int, float]] = []
        self.mark: Callable[[tuple[int, float]], None] = self._marks.append
        """Takes a phase that is entered, or ``LEAVE``, or ``FETCHED - key``, and the time."""
        self._keys: list[int] = []
        self._done: list[tuple[int, Partial]] = []
        self._stack: list[int] = []
        self._now = OTHER
        self._after_forward: int | None = None
        self._events: list[tuple[int, Any]] | None = None
        self._make_event: Any = None
        self._begin(perf_counter())

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Batches are made that the script did not ask for: calls of modules among their transforms are not the loop's."""
        before, self.fetching = self.fetching, True
        try:
            yield
        finally:
            self.fetching = before

    def restart(self) -> None:
        """Forget what was accumulated; the next partial starts here."""
        self.work_out()  # which phases are open stays true
        self._keys.clear()
        self._done.clear()
        self._begin(perf_counter())

    def _begin(self, now: float) -> None:
        self._seconds = [0.0] * len(PHASES)
        self._pending = 0.0
        self._fetches: dict[int, int] = {}
        self._forwards = 0
        self._backwards = 0
        self._last = self._start = now

    def last_sign(self) -> float:
        """When the loop last did anything that is marked; may be asked from another thread."""
        try:
            return max(self._marks[-1][1], self.touched)
        except IndexError:  # just worked out
            return max(self._last, self.touched)

    def mine(self) -> bool:
        """Whether the calling thread is the one that trains."""
        return threading.get_ident() == self.thread

    def push(self, phase: int) -> None:
        """Enter ``phase``. Where every step comes by, ``mark((phase, perf_counter()))`` does the same without a call."""
        self.mark((phase, perf_counter()))

    def pop(self) -> None:
        """Leave the innermost phase."""
        self.mark((LEAVE, perf_counter()))

    def crowded(self) -> bool:
        """Whether so many marks wait that :meth:`work_out` is to be called, though no partial was cut."""
        return len(self._marks) > MOST_KEPT

    def cut(self, key: int) -> None:
        """End the current partial here, right after a call of the optimizer known as ``key``, and begin the next one."""
        self.mark((CUT, perf_counter()))
        self._keys.append(key)

    def due(self) -> bool:
        """Whether partials have waited long enough to be worked out."""
        return bool(self._done) or len(self._marks) > MOST_KEPT // 2 or self._marks[-1][1] - self._start > LONGEST_KEPT

    def partials(self) -> list[tuple[int, Partial]]:
        """The partials that were cut since the last call, each with its optimizer's key."""
        self.work_out()
        done, self._done = self._done, []
        return done

    def work_out(self) -> None:
        """From marks to seconds. One loop without calls: for steps of a millisecond this is the larger part of the cost."""
        seconds, stack = self._seconds, self._stack
        current, last, pending, after_forward = self._now, self._last, self._pending, self._after_forward
        for mark, now in self._marks:
            if mark >= 0:
                if after_forward == current:
                    # What stands between forward and backward is the loss; before anything else it is other work.
                    pending += now - last
                    if mark == BACKWARD:
                        seconds[LOSS] += pending
                        pending, after_forward = 0.0, None
                    elif mark in (DATA, OPTIMIZER):
                        seconds[current] += pending
                        pending, after_forward = 0.0, None
                else:
                    seconds[current] += now - last
                stack.append(current)
                current = mark
                if mark == FORWARD:
                    # Checkpointing computes parts of the model again inside backward: that is no other call of it.
                    self._forwards += stack[-1] != BACKWARD
                elif mark == BACKWARD:
                    self._backwards += 1
            elif mark == CUT:
                seconds[current] += now - last
                seconds[OTHER] += pending
                pending, after_forward = 0.0, None
                self._done.append((self._keys.pop(0), Partial(
                    now - self._start, tuple(seconds), self._fetches, self._forwards, self._backwards
                )))
                self._begin(now)
                seconds = self._seconds
            else:
                seconds[current] += now - last
                ended, current = current, stack.pop() if stack else OTHER
                if ended == FORWARD:
                    after_forward = current  # the loss is computed there: in the loop, or in a closure of the optimizer
                if mark <= FETCHED:
                    key = FETCHED - mark
                    self._fetches[key] = self._fetches.get(key, 0) + 1
            last = now
        self._now, self._last, self._pending, self._after_forward = current, last, pending, after_forward
        self._marks.clear()

    # -- devices that work asynchronously

    def use_events(self, make_event: Any) -> None:
        """Record ``make_event()`` (a ``torch.cuda.Event`` with timing) at every phase change from now on."""
        self.work_out()
        self._make_event = make_event
        self._event_stack = [*self._stack, self._now]
        self._events = []
        self._record_event()
        self.mark = self._mark_with_event

    def without_events(self) -> None:
        """Record no more of them."""
        self._events = None
        self.mark = self._marks.append

    def _mark_with_event(self, mark: tuple[int, float]) -> None:
        self._marks.append(mark)
        if mark[0] == CUT:
            return
        if mark[0] >= 0:
            self._event_stack.append(mark[0])
        elif len(self._event_stack) > 1:
            self._event_stack.pop()
        self._record_event()

    def _record_event(self) -> None:
        event = self._make_event()
        event.record()
        assert self._events is not None
        self._events.append((self._event_stack[-1], event))

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
