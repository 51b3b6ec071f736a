"""Probe: do two workers of an IterableDataset deliver the same batches?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from perfdoc_probes.dataloader_workers import planned
from torch.utils import _pytree as pytree
from torch.utils.data import IterableDataset

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.feed import twin

BATCHES = 3
"""Batches of each worker that are compared."""


class IterableSharding(Probe):
    """1 where the first batches of two workers are equal, value by value; 0 where any differs."""

    slug = "iterable_sharding"
    of_loader = True
    provides = {"iterable.duplicated": "1"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Start two workers of a twin and compare what each of them delivers."""
        loader = loop.loaders[0].loader if loop.loaders else None
        if loader is None or not isinstance(loader.dataset, IterableDataset):
            return [Unavailable("iterable.duplicated", "the step's data set is no IterableDataset")]
        workers = planned(plan, loader)
        if workers < 2:
            return [Unavailable("iterable.duplicated", "fewer than two workers")]
        iterator = twin.start(twin.twin(loader, 2, lambda sampler: sampler))
        batches = []
        try:
            for _ in range(2 * BATCHES):  # in order, batches come from the two workers in turn
                batches.append(twin.original_next(iterator))
        except StopIteration:
            return [Unavailable("iterable.duplicated", f"the stream has fewer than {2 * BATCHES} batches")]
        finally:
            twin.stop(iterator)
        same = all(_equal(batches[n], batches[n + 1]) for n in range(0, 2 * BATCHES, 2))
        return [Measurement("iterable.duplicated", "1", (float(same),), {"workers": workers}, "measured in isolation")]


def _equal(one: Any, other: Any) -> bool:
    left, right = pytree.tree_leaves(one), pytree.tree_leaves(other)
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if type(a) is not type(b):
            return False
        if isinstance(a, torch.Tensor):
            if not torch.equal(a, b):
                return False
        elif hasattr(a, "shape"):  # numpy arrays of collate functions of the user's own
            if a.shape != b.shape or not bool((a == b).all()):
                return False
        elif a != b:
            return False
    return True
