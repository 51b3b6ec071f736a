"""A data set that is asked for a whole batch at once: ``dataset[[3, 1, 7]]`` in place of three calls and a collation.

That is what ``DataLoader(dataset, batch_size=None, sampler=BatchSampler(...))`` asks for. Tensors and arrays in memory can
answer it with one index operation.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset, Subset, default_convert
from torch.utils.data._utils.collate import default_collate_fn_map

from perfdoc.inject.feed.swapped_dataset import Transparent


class Whole:
    """A batch that is ready: it must not be collated."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class WholeBatchDataset(Transparent, Dataset):  # type: ignore[misc]
    """A data set whose batches are made by one call with all their indices. Attributes are those of the data set inside."""

    def __init__(self, inner: Any) -> None:
        self._perfdoc_inner = inner

    def __len__(self) -> int:
        return len(self._perfdoc_inner)

    def __getitem__(self, index: Any) -> Any:
        return self._perfdoc_inner[index]

    def __getitems__(self, indices: Any) -> list[Whole]:
        """The batch of these indices, as torch's collate function is to leave it."""
        return [Whole(asked_at_once(self._perfdoc_inner, indices))]


def makes_batches(dataset: Any) -> bool:
    """Whether the data set makes whole batches itself; a Subset does where the one inside does."""
    if isinstance(dataset, Subset) and type(dataset).__getitems__ is Subset.__getitems__:
        return makes_batches(dataset.dataset)
    return bool(getattr(dataset, "__getitems__", None))


def _as_it_is(samples: Any, *, collate_fn_map: Any = None) -> Any:
    return samples[0].batch


default_collate_fn_map[Whole] = _as_it_is  # torch's own way to teach its collate function a type; also in spawned workers


def asked_at_once(dataset: Any, indices: Any) -> Any:
    """The batch of ``indices`` by one call of the data set, converted as a loader with ``batch_size=None`` converts it."""
    return default_convert(dataset[list(indices)])
