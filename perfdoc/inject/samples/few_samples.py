"""A data set that serves some of its samples in place of all: those that a cache holds, as epochs after the first would do."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from torch.utils.data import Dataset

from perfdoc.inject.feed.swapped_dataset import Transparent
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import process_use

FILL_SECONDS = 3.0
"""Time given to filling the cache that the loop is tried with."""
MOST_KEPT = 512
"""Maximum number of samples in it."""

SHARE_OF_FREE = 0.5
"""Maximum share of the free memory that the cache of a whole data set may take."""


def no_room(needed: float, loader: Any, how: str) -> str:
    """Why a cache of the whole data set is too much here; empty where it is not. Every worker keeps its own.

    ``needed``: bytes of one cache. ``how``: what is done to what is kept, ``decoded``.
    """
    copies, free = max(1, loader.num_workers), process_use.free_memory()
    if free is not None and needed * copies <= SHARE_OF_FREE * free:
        return ""
    each = f" in each of {copies} workers" if copies > 1 else ""
    return f"{how}, the data set takes {needed / 2**30:.3g} GiB{each}: too much here"


class FewSamples(Transparent, Dataset):  # type: ignore[misc]
    """``cached``: a data set that keeps what it makes. It is asked for samples from all over ``inner``, then for these only.

    Attributes are those of the user's own data set.
    """

    def __init__(self, inner: Any, cached: Any) -> None:
        self._perfdoc_inner = inner
        self._perfdoc_cached = cached
        self._perfdoc_indices: list[int] = []
        start, length = perf_counter(), len(inner)
        # Nothing that this opens may be shared by the workers that are forked afterwards.
        with Unchanged(inner):
            for index in range(0, length, max(1, math.ceil(length / MOST_KEPT))):
                cached[index]
                self._perfdoc_indices.append(index)
                if perf_counter() - start > FILL_SECONDS:
                    break

    def __len__(self) -> int:
        return len(self._perfdoc_inner)

    def __getitem__(self, index: Any) -> Any:
        place = index if isinstance(index, int) else hash(index)
        return self._perfdoc_cached[self._perfdoc_indices[place % len(self._perfdoc_indices)]]
