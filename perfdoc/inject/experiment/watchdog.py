"""A thread beside the loop that notices when it stands still, when memory runs short, and when perfdoc itself has gone.

Nothing in the loop is slowed for it: the clock's last mark says when the loop last did anything.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from time import perf_counter
from typing import TYPE_CHECKING

from perfdoc.inject.feed.loaders import Source
from perfdoc.inject.system import process_use

if TYPE_CHECKING:
    from perfdoc.inject.session import Session

TICK = 1.0
STILL_SECONDS = 25.0
"""Minimum time without any batch, call of the model, backward or step, in seconds, after which the loop is taken to stand
still while perfdoc changes it; longer where it has made longer pauses before, or the change compiles."""
WAKE_SECONDS = 4.0
"""Minimum time of the same, in seconds, after which paused workers are woken: one may hold a lock that others wait for. To
wake them harms nothing but the quiet of a few blocks."""
MORE_SECONDS = 12.0
"""Time in seconds that the loop then has to go on, once its stacks were written; after that it is given up."""
PAUSES = 3.0
"""A loop that has paused before may pause three times as long."""
SHORT_OF_MEMORY = 0.06
"""Share of the memory that was there when the loop was held, below which the experiment is ended."""
GROWN_BYTES = 2**30
GROWN_SHARE = 0.25
"""The hold ends where the process has grown by a gibibyte and by a quarter of the free memory since: what a script collects
over an epoch (metrics, outputs) is dropped at its end."""


class Watchdog:
    """Watches over the loop of one process. ``begin`` is called when something is about to train."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pid = os.getpid()
        self._parent = int(session.settings.get("parent") or 0)
        self._longest = 0.0
        self._stalled_at: float | None = None
        self._stuck = False
        self._free: int | None = None
        self._used: int | None = None
        self._orphaned: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start the thread, once."""
        if self._thread is None:
            self._parent = self._parent if _lives(self._parent) else 0
            self._thread = threading.Thread(target=self._run, name="perfdoc-watchdog", daemon=True)
            self._thread.start()

    def held(self) -> None:
        """The loop is held from now on: memory is compared with that of now."""
        self._free, self._used = process_use.free_memory(), process_use.own_memory()

    def _run(self) -> None:
        session = self._session
        beat = os.path.join(session.recorder.run_dir, f"beat-{session.lap}-{self._pid}")
        self._touch(beat)
        before = perf_counter()
        while session.enabled and session.ending is None:
            time.sleep(TICK)
            now = perf_counter()
            if os.getpid() != self._pid:
                return
            self._touch(beat)
            if now - before > 5 * TICK:  # the whole process stood still (suspended, a laptop that slept): not the loop's doing
                session.clock.touched = now
            before = now
            self._look(now)
            if self._parent and not _lives(self._parent):
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
        session = self._session
        still = now - session.clock.last_sign()
        if still < 2 * TICK:
            if self._stalled_at is not None:
                self._stalled_at = None
                session.recorder.write("went_on")
        elif self._stalled_at is None:
            self._longest = max(self._longest, still) if not self._changing() else self._longest
        if not self._changing() or self._stuck:
            return
        if still > max(WAKE_SECONDS, PAUSES * self._longest) and Source.pausing and Source.any_paused():
            session.recorder.write("woken", arm=session.arm_id(), sources=Source.never_pause())
        if self._stalled_at is None:
            if still > self._patience():
                self._stalled_at = now
                self._stalled()
        elif now - self._stalled_at > MORE_SECONDS:
            self._stuck = True
            session.recorder.write("stuck", arm=session.arm_id(), still=round(still, 1))
        self._memory()

    def _changing(self) -> bool:
        """Whether perfdoc holds the loop: only then may it be its doing that nothing happens."""
        return self._session.holding and self._session.conductor is not None and not self._session.conductor.done

    def _patience(self) -> float:
        conductor = self._session.conductor
        expected = conductor.expected_seconds() if conductor is not None else 0.0
        return max(STILL_SECONDS, PAUSES * self._longest, 4 * expected + STILL_SECONDS * (expected > 0))

    def _stalled(self) -> None:
        """Write all stacks down."""
        session = self._session
        session.recorder.write("stalled", arm=session.arm_id())
        try:
            with open(os.path.join(session.recorder.run_dir, "stacks.txt"), "a", encoding="utf-8") as f:
                f.write(f"\nthe loop stood still under {session.arm_id()}:\n")
                f.flush()
                faulthandler.dump_traceback(f, all_threads=True)
        except (OSError, RuntimeError, ValueError):
            pass

    # -- memory

    def _memory(self) -> None:
        free, used = process_use.free_memory(), process_use.own_memory()
        if free is None or used is None or self._free is None or self._used is None:
            return
        if free < SHORT_OF_MEMORY * self._free:
            self._session.wish_end("memory ran short")
        elif used - self._used > max(GROWN_BYTES, GROWN_SHARE * self._free):
            self._used = used
            self._session.wish_natural("the process grows while its epoch does not end")

    # -- perfdoc gone

    def _alone(self, now: float) -> None:
        """The scan was killed: end the script, politely at first."""
        if self._orphaned is None:
            self._orphaned = now
            self._session.recorder.write("orphaned")
            self._session.wish_end("the scan was killed")
        elif now - self._orphaned > 10:
            self._session.hard_exit("the scan was killed")


def _lives(pid: int) -> bool:
    """Whether there is such a process; False for 0, also where it is in another PID namespace."""
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not os.path.isdir("/proc/self")
