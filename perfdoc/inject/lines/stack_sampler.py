"""Samples the stack of one thread of this process, from a thread of its own.

Each sample stands for the time since the one before it. So a native call that holds the interpreter's lock, in which no sample
can be taken, is not lost: the first sample after it still finds the thread at the line that made the call, and has its whole
length. While samples are taken the interpreter's switch interval is short: a sampler that waits 5 ms for the lock, Python's
default, gets it mostly when the thread enters a native call that gives the lock away, and hardly ever sees Python code.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from time import perf_counter, sleep
from types import CodeType, FrameType
from typing import NamedTuple

SWITCH_INTERVAL = 5e-6
"""Maximum time in seconds for which the sampler waits before the interpreter takes the lock from the thread. In a data set
whose samples spend 80, 9 and 11% in three lines, the last of them a native call that gives the lock away, 5 ms found 2, 0 and
94%, 0.3 ms 49, 0 and 50%, and this 80, 7 and 11%."""
NAP = 0.003
"""Maximum time in seconds before a sample for which the switch interval is short, where the sampler is gentle."""
MOST_STACKS = 20_000
"""Maximum number of different stacks that are kept, because of memory; time in further ones is kept without its stack."""
MOST_SAMPLES = 200_000

Stack = tuple[int, ...]
"""Of every frame, innermost first: the id of its code object, and the offset of its instruction in bytes."""


class Sample(NamedTuple):
    """One sample."""

    at: float
    """When it was taken, in seconds of ``time.perf_counter``."""
    weight: float
    """Seconds that it stands for."""
    place: int
    """Place of its stack in :attr:`StackSampler.stacks`; 0 where that was not kept."""


class StackSampler:
    """Samples of the thread with this identifier, every ``period`` seconds on average.

    ``each`` is called in the sampling thread after every sample; it must be quick. ``gentle``: the switch interval is short for
    the last :data:`NAP` seconds before a sample only, for programs with several threads of Python, which would else hand the
    lock to one another all the time.
    """

    def __init__(
        self, thread: int, period: float, each: Callable[[], None] = lambda: None, gentle: bool = False,
    ) -> None:
        self.period = period
        self.codes: dict[int, CodeType] = {}
        """Code objects by id; kept, so that no id is used again."""
        self.stacks: list[Stack] = [()]
        self.samples: list[Sample] = []
        self._thread = thread
        self._each = each
        self._gentle = gentle
        self._places: dict[Stack, int] = {(): 0}
        self._end = threading.Event()
        self._runner: threading.Thread | None = None
        self._interval: float | None = None

    def start(self) -> None:
        """Begin; also again, after :meth:`stop`."""
        self._end.clear()
        self._interval = sys.getswitchinterval()
        if not self._gentle:
            sys.setswitchinterval(min(SWITCH_INTERVAL, self._interval))
        self._runner = threading.Thread(target=self._run, name="perfdoc-lines", daemon=True)
        self._runner.start()

    def stop(self) -> None:
        """End; the switch interval is what it was."""
        if self._interval is None:
            return
        self._end.set()
        if self._runner is not None and self._runner is not threading.current_thread():
            self._runner.join(1.0)
        sys.setswitchinterval(self._interval)
        self._interval = None

    def after_fork(self) -> None:
        """In a forked child, which has no sampling thread: the switch interval is what it was."""
        if self._interval is not None:
            sys.setswitchinterval(self._interval)
            self._interval = None

    def take(self) -> list[Sample]:
        """The samples taken since this was last called."""
        taken, self.samples = self.samples, []
        return taken

    def _run(self) -> None:
        last = perf_counter()
        period, thread, ended = self.period, self._thread, self._end.is_set
        draw = random.Random(0).random  # of its own: the script's random numbers stay as they are
        while not ended():
            if self._gentle:
                self._nap(period, draw)
            else:
                sleep(period * (0.5 + draw()))  # a fixed period could fall in with that of the loop
            frame = sys._current_frames().get(thread)
            now = perf_counter()
            if frame is None:  # the thread is over
                return
            place = self._place(self._walk(frame))
            del frame
            if len(self.samples) < MOST_SAMPLES:
                self.samples.append(Sample(now, now - last, place))
            last = now
            if self._gentle and self._interval is not None:
                sys.setswitchinterval(self._interval)
            self._each()

    def _nap(self, period: float, draw: Callable[[], float]) -> None:
        """Sleep a period, with a short switch interval at its end. When that begins depends on when the lock was to be had; so
        the rest is of random length."""
        sleep(period * (0.5 + draw()))
        if self._interval is not None:
            sys.setswitchinterval(min(SWITCH_INTERVAL, self._interval))
        sleep(NAP * draw())

    def _walk(self, frame: FrameType | None) -> Stack:
        codes = self.codes
        stack: list[int] = []
        while frame is not None:
            code = frame.f_code
            key = id(code)
            if key not in codes:
                codes[key] = code
            stack.append(key)
            stack.append(frame.f_lasti)
            frame = frame.f_back
        return tuple(stack)

    def _place(self, stack: Stack) -> int:
        place = self._places.get(stack)
        if place is None:
            if len(self.stacks) >= MOST_STACKS:
                return 0
            place = self._places[stack] = len(self.stacks)
            self.stacks.append(stack)
        return place
