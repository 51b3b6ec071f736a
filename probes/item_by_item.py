"""Probe: a batch of samples that lie in memory, made one by one and at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import default_collate

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.feed import twin
from perfdoc.inject.feed.whole_batches import asked_at_once
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system.random_state import RandomState

from .whole_batches import why_not

BATCHES = 4
"""Maximum number of batches that are made each way; the first one is left out."""
SECONDS = 0.5
"""Maximum time in seconds for making them one way."""
HOW: How = "measured in isolation"


class ItemByItem(Probe):
    """Seconds to make a batch of the loader's size, with one thread as in a worker: sample by sample and collated, and at once.

    Only of data sets whose batches are the same both ways.
    """

    slug = "item_by_item"
    of_loader = True
    provides = {"batch.one_by_one": "s", "batch.at_once": "s"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Time both ways on the same indices."""
        loader = loop.loaders[0].loader if loop.loaders else None
        why = "no DataLoader in the step" if loader is None else why_not(loader)
        if loader is None or why:
            return [Unavailable(metric, why) for metric in self.provides]
        dataset, threads, kept = loader.dataset, torch.get_num_threads(), RandomState(loader)
        torch.set_num_threads(1)
        try:
            with Unchanged(dataset):
                batches = [list(batch) for batch in itertools.islice(twin.Endless(loader.batch_sampler), BATCHES)]
                single = _timed(batches, lambda batch: default_collate([dataset[index] for index in batch]))
                whole = _timed(batches, lambda batch: asked_at_once(dataset, batch))
        finally:
            torch.set_num_threads(threads)
            kept.restore()
        about = {"batch_size": len(batches[0])}
        return [Measurement("batch.one_by_one", "s", single, about, HOW), Measurement("batch.at_once", "s", whole, about, HOW)]


def _timed(batches: list[list[Any]], make: Callable[[list[Any]], Any]) -> tuple[float, ...]:
    """Seconds for each batch but the first, where there was time for more than one."""
    seconds: list[float] = []
    begin = perf_counter()
    for batch in batches:
        start = perf_counter()
        make(batch)
        seconds.append(perf_counter() - start)
        if perf_counter() - begin > SECONDS:
            break
    return tuple(seconds[1:] or seconds)
