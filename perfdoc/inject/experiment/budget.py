"""The time that an experiment has."""

from __future__ import annotations

import math
import time

LATE_SHARE = 0.15
"""Maximum share of the budget that goes by before the loop is known: samples drawn or a validation after the first step are the
script's start, not its loop."""


class Budget:
    """``seconds`` from the first optimizer step on, of which earlier launches ``spent`` some."""

    def __init__(self, seconds: float, spent: float) -> None:
        self.seconds = seconds
        self._spent = spent
        self._began: float | None = None

    def begin(self) -> bool:
        """An optimizer has stepped; whether it was the first time."""
        if self._began is not None:
            return False
        self._began = time.monotonic()
        return True

    def begin_anew(self) -> None:
        """The next optimizer step is the first one."""
        self._began = None

    def elapsed(self) -> float:
        """Seconds since the first optimizer step; 0 before it."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def remaining(self) -> float:
        """Seconds that are left; negative where it is overdrawn."""
        return self.seconds if self._began is None else self.seconds - self.elapsed() - self._spent

    def forgive_late_start(self, training: float) -> float:
        """Count from later on where the loop was known late, behind a long first callback; how much later, in seconds.

        ``training``: seconds of the time so far that were spent on steps.
        """
        late = self.elapsed() - training - LATE_SHARE * self.seconds
        if self._began is None or late <= 0 or not math.isfinite(late):
            return 0.0
        self._began += late
        return late
