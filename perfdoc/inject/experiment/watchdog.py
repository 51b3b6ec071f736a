"""A thread beside the loop that notices when it stands still, when memory runs short, and when perfdoc itself has gone.

Nothing in the loop is slowed for it: the clock's last mark says when the loop last did anything.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from perfdoc.core.alive import lives
from perfdoc.inject.experiment.wishes import Wishes
from perfdoc.inject.feed.source import Source
from perfdoc.inject.observe.clock import Clock
from perfdoc.inject.system import process_use
from perfdoc.inject.system.recorder import Recorder

TICK = 1.0
STILL_SECONDS = 25.0
"""Minimum time without any batch, call of the model, backward or step, in seconds, after which the loop is taken to stand
still while perfdoc changes it; longer where it has made longer pauses before, or the change compiles."""
RESUME_SECONDS = 4.0
"""Minimum time of the same, in seconds, after which paused workers are resumed: one may hold a lock that others wait for.
That harms nothing but the quiet of a few blocks."""
MORE_SECONDS = 12.0
"""Minimum time in seconds that the loop has to go on, once its stacks were written; after that it is given up."""
PAUSES = 3.0
"""Maximum length of a pause, in times of the longest one before."""
SHORT_OF_MEMORY = 0.1
"""Minimum share of the memory that was there when the loop was held, below which the experiment is ended."""
AHEAD = 5.0
HALF = 0.5
"""It is ended as well where it would be there within five seconds, at the pace of the last two, and half is gone already."""
GROWN_BYTES = 2**30
GROWN_SHARE = 0.25
"""The hold ends where the process has grown by a gibibyte and by a quarter of the free memory since: what a script collects
over an epoch (metrics, outputs) is dropped at its end."""


class Changing(Protocol):
    """What changes the loop (see ``runner.Runner``), asked from the watchdog's thread."""

    done: bool

    def arm_id(self) -> str:
        """What is on now, for events."""

    def expected_seconds(self) -> float:
        """About how long the first switch to the arm that is on takes (compilation)."""


class Watchdog:
    """Watches over the loop of one process. ``begin`` is called when something is about to train.

    ``parent``: the process that scans; 0: none. ``over`` says whether there is nothing to watch any more; ``exit`` ends the
    process at once, for the reason given.
    """

    def __init__(
        self, recorder: Recorder, clock: Clock, wishes: Wishes, parent: int, over: Callable[[], bool],
        exit: Callable[[str], None],
    ) -> None:
        self._recorder = recorder
        self._clock = clock
        self._wishes = wishes
        self._over = over
        self._exit = exit
        self._runner: Changing | None = None
        self._pid = os.getpid()
        self._parent = parent
        self._longest = 0.0
        self._stalled_at: float | None = None
        self._stuck = False
        self._free: int | None = None
        self._used: int | None = None
        self._free_before: list[int] = []
        """Bytes that were free at the last ticks."""
        self._orphaned: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread, once."""
        if self._thread is None:
            self._parent = self._parent if lives(self._parent) else 0
            self._thread = threading.Thread(target=self._run, name="perfdoc-watchdog", daemon=True)
            self._thread.start()

    def held(self, runner: Changing | None) -> None:
        """The loop is held from now on, and ``runner`` changes it: memory is compared with that of now."""
        self._runner = runner
        self._free, self._used = process_use.free_memory(), process_use.own_memory()

    def _run(self) -> None:
        beat = os.path.join(self._recorder.run_dir, f"beat-{self._recorder.lap}-{self._pid}")
        self._touch(beat)
        before = perf_counter()
        while not self._over():
            time.sleep(TICK)
            now = perf_counter()
            if os.getpid() != self._pid:
                return
            self._touch(beat)
            if now - before > 5 * TICK:  # the whole process stood still (suspended, a laptop that slept): not the loop's doing
                self._clock.touched = now
            before = now
            self._look(now)
            if self._parent and not lives(self._parent):
                self._alone(now)
        self._remove(beat)

    @staticmethod
    def _touch(beat: str) -> None:
        try:
            with open(beat, "ab"):
                os.utime(beat)
        except OSError:
            pass

    @staticmethod
    def _remove(beat: str) -> None:
        try:
            os.unlink(beat)
        except OSError:
            pass

    # -- standing still

    def _look(self, now: float) -> None:
        recorder = self._recorder
        # Only while perfdoc changes the loop may it be its doing that nothing happens.
        runner = self._runner if self._runner is not None and not self._runner.done else None
        still = now - self._clock.last_sign()
        if still < 2 * TICK:
            if self._stalled_at is not None:
                self._stalled_at = None
                recorder.write("went_on")
        elif self._stalled_at is None:
            self._longest = max(self._longest, still) if runner is None else self._longest
        if runner is None or self._stuck:
            return
        if still > max(RESUME_SECONDS, PAUSES * self._longest) and Source.pausing and Source.any_paused():
            recorder.write("woken", arm=runner.arm_id(), sources=Source.never_pause())
        if self._stalled_at is None:
            if still > self._patience(runner):
                self._stalled_at = now
                self._stalled(runner.arm_id())
        elif now - self._stalled_at > MORE_SECONDS:
            self._stuck = True
            recorder.write("stuck", arm=runner.arm_id(), still=round(still, 1))
        self._memory()

    def _patience(self, runner: Changing) -> float:
        expected = runner.expected_seconds()
        return max(STILL_SECONDS, PAUSES * self._longest, 4 * expected + STILL_SECONDS * (expected > 0))

    def _stalled(self, arm: str) -> None:
        """Write all stacks down."""
        self._recorder.write("stalled", arm=arm)
        try:
            with open(os.path.join(self._recorder.run_dir, "stacks.txt"), "a", encoding="utf-8") as f:
                f.write(f"\nthe loop stood still under {arm}:\n")
                f.flush()
                faulthandler.dump_traceback(f, all_threads=True)
        except (OSError, RuntimeError, ValueError):
            pass

    # -- memory

    def _memory(self) -> None:
        free, used = process_use.free_memory(), process_use.own_memory()
        if free is None or used is None or self._free is None or self._used is None:
            return
        self._free_before = [*self._free_before[-1:], free]
        falls = max(0, self._free_before[0] - free) if len(self._free_before) == 2 else 0
        soon = free - AHEAD * falls < SHORT_OF_MEMORY * self._free and free < HALF * self._free
        if free < SHORT_OF_MEMORY * self._free or soon:
            self._wishes.wish_end("memory ran short")
        elif used - self._used > max(GROWN_BYTES, GROWN_SHARE * self._free):
            self._used = used
            self._wishes.wish_natural("the process grows while its epoch does not end")

    # -- perfdoc gone

    def _alone(self, now: float) -> None:
        """The scan was killed: end the script, politely at first."""
        if self._orphaned is None:
            self._orphaned = now
            self._recorder.write("orphaned")
            self._wishes.wish_end("the scan was killed")
        elif now - self._orphaned > 10:
            self._exit("the scan was killed")
