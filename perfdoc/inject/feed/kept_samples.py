"""Data sets that keep what they have made once: whole samples, or what the first transforms make of one."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import Dataset

from perfdoc.inject.feed.swapped_dataset import Transparent


class KeptSamples(Transparent, Dataset):  # type: ignore[misc]
    """Every sample is made once. ``copied``: a copy of what is kept is handed out, as a collate function may change samples."""

    def __init__(self, inner: Any, copied: bool) -> None:
        self._perfdoc_inner = inner
        self._perfdoc_copied = copied
        self._perfdoc_kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._perfdoc_inner)

    def __getitem__(self, index: Any) -> Any:
        kept = self._perfdoc_kept
        if index not in kept:
            kept[index] = self._perfdoc_inner[index]
        return copy.deepcopy(kept[index]) if self._perfdoc_copied else kept[index]


class KeptPrefix(Transparent, Dataset):  # type: ignore[misc]
    """What the first ``count`` transforms make of a sample is made once; the others run for every sample.

    ``transforms``: the list that the data set's ``Compose`` calls; a forked worker has a copy. It is changed only while a
    sample is made.
    """

    def __init__(self, inner: Any, transforms: list[Any], count: int) -> None:
        self._perfdoc_inner = inner
        self._perfdoc_transforms = transforms
        self._perfdoc_count = count
        self._perfdoc_kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._perfdoc_inner)

    def __getitem__(self, index: Any) -> Any:
        steps = self._perfdoc_transforms
        before = list(steps)
        steps[: self._perfdoc_count] = [_Once(before[: self._perfdoc_count], self._perfdoc_kept, index)]
        try:
            return self._perfdoc_inner[index]
        finally:
            steps[:] = before


class _Once:
    """The first transforms of one sample: called where the result is not kept yet."""

    def __init__(self, steps: list[Any], kept: dict[Any, Any], index: Any) -> None:
        self._steps, self._kept, self._index = steps, kept, index

    def __call__(self, value: Any) -> Any:
        if self._index not in self._kept:
            for step in self._steps:
                value = step(value)
            self._kept[self._index] = value
        return copy.deepcopy(self._kept[self._index])  # the transforms that follow may work in place
