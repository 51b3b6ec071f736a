"""Probe: what the turn of an epoch costs with workers that are respawned, and with workers that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from perfdoc_probes.dataloader_workers import planned

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop

REPEATS = 4
MOST_SECONDS = 15.0


class PersistentWorkers(Probe):
    """Seconds from the end of an epoch to the first batch of the next one, alternating the two ways.

    Measured on twins of the user's loader with short epochs, with the plan's number of workers, or the user's.
    """

    slug = "persistent_workers"
    provides = {"loader.turnover": "s"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Time epoch turns; Unavailable where there are no workers or no epochs."""
        if not loop.loaders:
            return [Unavailable("loader.turnover", "no DataLoader in the step")]
        handle = loop.loaders[0]
        workers = planned(plan, handle.loader)
        if not workers:
            return [Unavailable("loader.turnover", "no workers, so none are respawned")]
        epoch = handle.batches_an_epoch
        if epoch is None:
            return [Unavailable("loader.turnover", "the data set has no length, so its epochs cannot be shortened")]
        batches = min(epoch, workers * (handle.loader.prefetch_factor or 2) + 1)
        twins = {kind: handle.short_epoch(workers, kind == "persistent", batches) for kind in ("respawned", "persistent")}
        samples: dict[str, list[float]] = {kind: [] for kind in twins}
        start = perf_counter()
        iterators: dict[str, Any] = {}
        try:
            for kind in twins:
                iterators[kind] = _finish_epoch(twins[kind]())
            for _ in range(REPEATS):
                for kind in twins:
                    samples[kind].append(_turn(iterators, kind, twins[kind]))
                    _finish_epoch(iterators[kind])
                if perf_counter() - start > MOST_SECONDS:
                    break
        finally:
            for iterator in iterators.values():
                iterator._shutdown_workers()
        return [
            Measurement("loader.turnover", "s", tuple(times), {"workers": workers, "kind": kind})
            for kind, times in samples.items()
        ]


def _finish_epoch(iterator: Any) -> Any:
    """Draw all batches but not the StopIteration: ending the epoch is part of the turn."""
    for _ in range(len(iterator)):
        next(iterator, None)
    return iterator


def _turn(iterators: dict[str, Any], kind: str, begin: Callable[[], Any]) -> float:
    start = perf_counter()
    next(iterators[kind], None)  # StopIteration: without persistence this shuts the workers down
    iterators[kind] = begin()
    next(iterators[kind])
    return perf_counter() - start
