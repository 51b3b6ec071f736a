"""Ceiling: the loader without the model, drained as fast as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop

SECONDS = 0.3
"""Time a round gives to draining; at least two batches are drawn."""
MOST_SECONDS = 3.0


class LoaderCeiling(Probe):
    """Seconds a step that the user's loader needs alone, its batches thrown away: one sample a round of the experiment."""

    slug = "loader_ceiling"
    provides = {"loader.ceiling": "s"}
    each_round = True

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Drain what is prefetched, then time the batches that one or more steps would take."""
        if not loop.loaders:
            return [Unavailable("loader.ceiling", "no DataLoader in the step")]
        seconds = 0.0
        for handle in loop.loaders:
            handle.drain()
            drawn, start = 0, perf_counter()
            while drawn < 2 or perf_counter() - start < SECONDS:
                handle.draw()
                drawn += 1
                if perf_counter() - start > MOST_SECONDS:
                    break
            seconds += (perf_counter() - start) / drawn * handle.batches_a_step
        return [Measurement("loader.ceiling", "s", (seconds,), {"workers": loop.loaders[0].loader.num_workers})]
