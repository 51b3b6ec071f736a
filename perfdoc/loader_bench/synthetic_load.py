"""A stand-in for the model's step: keeps the cores busy as long as the step does, with no model, loss or optimizer.

Where the model trains on the cores that load its data, a loader is slower beside the step than alone, and how much slower no
formula tells: workers and the step wait for each other, and take each other's caches. With a stand-in that is measured,
without running the user's step once.
"""

from __future__ import annotations

from time import perf_counter

import torch

NUMBERS = 2**18
"""Numbers in its tensor, 1 MiB: enough for torch to share the work out over its threads, little enough for a core's cache."""
CALIBRATED = 0.05
"""Seconds of a stretch that its speed is read from."""
STRETCHES = 3


class StandIn:
    """Called once a batch, it does work that takes ``seconds`` where nothing else runs.

    The amount of work is fixed when it is made, on quiet cores: beside workers the same takes longer, as the model's would.
    """

    def __init__(self, seconds: float) -> None:
        self._tensor = torch.ones(NUMBERS)
        self._work(1)
        # The fastest stretch: what disturbs only ever makes one slower.
        self.times = max(1, round(seconds / min(self._seconds_each() for _ in range(STRETCHES))))

    def __call__(self) -> None:
        """One step's work."""
        self._work(self.times)

    def _work(self, times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                self._tensor.mul_(1.0)

    def _seconds_each(self) -> float:
        start, count = perf_counter(), 0
        while perf_counter() - start < CALIBRATED:
            self._work(10)
            count += 10
        return (perf_counter() - start) / count
