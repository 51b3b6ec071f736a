"""Twins: shallow copies of the user's loaders (same data set, sampler, collate function) whose epochs end where perfdoc says.

The user's iterator object stays the one their loop holds; only where its ``__next__`` takes batches from changes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import dataloader as torch_dataloader

WORKER_TIMEOUT = 120.0
"""Minimum time in seconds after which a worker of a twin that delivers nothing is given up. Users' own time-outs are kept."""
PATIENCE = 4.0
"""Maximum time that a worker of a twin may take for a batch, in times of the slowest batch so far: the first batch of some data
sets takes minutes, and every worker makes one."""

_BaseIter: Any = torch_dataloader._BaseDataLoaderIter
MultiIter: Any = torch_dataloader._MultiProcessingDataLoaderIter
original_next: Callable[[Any], Any] = _BaseIter.__next__


def start_method(loader: Any) -> str:
    """How the loader's workers are started: ``fork``, ``spawn`` or ``forkserver``."""
    context = loader.multiprocessing_context or torch.multiprocessing
    return str(context.get_start_method())


class Endless:
    """A sampler that begins anew when it is exhausted. Ends only where the sampler it repeats yields nothing."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            empty = True
            for item in self.sampler:
                empty = False
                yield item
            if empty:
                return

    def __len__(self) -> int:
        return len(self.sampler)


class Multiplied:
    """A batch sampler whose batches are ``factor`` times as large as those of the endless one it draws from."""

    def __init__(self, sampler: Any, factor: int) -> None:
        self.sampler = sampler
        self.factor = factor

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.sampler)
        while joined := [list(batch) for batch in itertools.islice(batches, self.factor)]:
            yield [index for batch in joined for index in batch]

    def __len__(self) -> int:
        return max(1, len(self.sampler) // self.factor)


class Short:
    """A sampler cut off after ``count`` items."""

    def __init__(self, sampler: Any, count: int) -> None:
        self.sampler = sampler
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.sampler), self.count)

    def __len__(self) -> int:
        return self.count


def twin(
    loader: Any, workers: int | None, wrap: Callable[[Any], Any], persistent: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """A shallow copy of ``loader`` with ``workers`` workers (None: as the user has it) and its sampler wrapped.

    ``changes``: further attributes of the copy (``pin_memory``, ``in_order``...). The copy goes around
    ``DataLoader.__init__``, so subclasses that iterate in their constructor do not start doing so again. The user's loader is
    not touched.
    """
    clone = copy.copy(loader)
    settings = clone.__dict__
    if workers is not None and workers != loader.num_workers:
        settings["num_workers"] = workers
        settings["prefetch_factor"] = (loader.prefetch_factor or 2) if workers else None
        settings["timeout"] = loader.timeout if workers else 0
        if not workers:
            settings["_DataLoader__multiprocessing_context"] = None
    if settings["num_workers"] and not settings["timeout"]:
        settings["timeout"] = max(WORKER_TIMEOUT, PATIENCE * float(loader.__dict__.get("_perfdoc_slowest", 0.0)))
    settings["persistent_workers"] = persistent and settings["num_workers"] > 0
    settings["_iterator"] = None
    settings["_perfdoc_twin"] = True
    settings.update(changes or {})
    if not isinstance(loader.dataset, IterableDataset):
        if settings.get("batch_sampler") is not None:
            settings["batch_sampler"] = wrap(settings["batch_sampler"])
        else:
            settings["sampler"] = wrap(settings["sampler"])
    return clone


def start(clone: Any, how: Callable[[Any], Any] = DataLoader._get_iterator) -> Any:
    """A fresh iterator of a twin, without the user's subclass taking part."""
    return how(clone)


def placeholder(loader: Any) -> Any:
    """What the user's loop iterates while ``loader`` is held: an iterator of theirs without workers, which it does not need."""
    iterator = start(twin(loader, 0, lambda sampler: sampler), DataLoader._get_iterator)
    iterator._perfdoc_loader = loader
    return iterator


def stop(iterator: Any) -> None:
    """End an iterator's workers now instead of at garbage collection."""
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def is_twin(loader: Any) -> bool:
    """Whether ``loader`` was made here and is none of the user's."""
    return bool(loader.__dict__.get("_perfdoc_twin"))


def likeness(loader: Any) -> tuple[Any, ...]:
    """What a loader made anew every epoch has in common with the one before."""
    try:
        length = len(loader)
    except (TypeError, NotImplementedError):
        length = None
    site = loader.__dict__.get("_perfdoc_made_at")
    return site, type(loader.dataset), type(loader.sampler), loader.batch_size, loader.num_workers, length
