"""A DataLoader under another setting, iterated without end, and what went wrong with it in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from perfdoc.core.errors import PerfdocError
from perfdoc.inject.feed import twin
from perfdoc.inject.system.batches import tensors_in
from perfdoc.loader_bench.setting import Setting

TIMED_OUT = "DataLoader timed out"
"""How torch begins the error of a worker that delivers nothing."""


def twin_of(
    loader: Any, setting: Setting, patience: float, wrap: Callable[[Any], Any], persistent: bool = False
) -> Any:
    """A loader like the user's with another setting. ``patience``: seconds without a batch after which a worker hangs.

    Raises PerfdocError where the setting cannot be made of it.
    """
    changes: dict[str, Any] = {"timeout": patience if setting.workers else 0}
    if setting.prefetch is not None and setting.workers:
        changes["prefetch_factor"] = setting.prefetch
    if setting.pin_memory is not None:
        changes["pin_memory"] = setting.pin_memory
    if setting.in_order is not None:
        changes["in_order"] = setting.in_order
    if setting.context is not None and setting.workers:
        changes["_DataLoader__multiprocessing_context"] = torch.multiprocessing.get_context(setting.context)
    wrapped = wrap
    if setting.batch_size is not None:
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(loader.dataset, IterableDataset):
            changes["batch_size"] = setting.batch_size
        elif not _is_plain(batches):
            raise PerfdocError("the batches are formed by the loader's own batch_sampler: their size cannot be changed")
        else:
            make: Any = BatchSampler

            def wrapped(sampler: Any) -> Any:
                return make(wrap(sampler.sampler), setting.batch_size, sampler.drop_last)
    return twin.twin(loader, setting.workers, wrapped, persistent or bool(setting.persistent), changes)


class Endless:
    """Batches of a twin without end, also where its data set is an IterableDataset that comes to its end."""

    def __init__(self, clone: Any) -> None:
        self.twin = clone
        self._iterator = twin.start(clone)

    @property
    def pids(self) -> list[int]:
        """Process ids of its workers."""
        return [worker.pid for worker in getattr(self._iterator, "_workers", ())]

    def next(self) -> Any:
        """The next batch; StopIteration as an error where there is none at all."""
        for _ in range(2):
            try:
                return twin.original_next(self._iterator)
            except StopIteration:
                self.close()
                self._iterator = twin.start(self.twin)
        raise PerfdocError("the data set is empty")

    def close(self) -> None:
        """End its workers."""
        twin.stop(self._iterator)


def turns_of(clone: Any, batches: int, times: int) -> Iterator[float]:
    """Seconds from the end of an epoch to the first batch of the next, ``times`` times.

    ``clone``: a loader whose epoch has ``batches`` batches.
    """
    iterator = twin.start(clone, DataLoader.__iter__)
    try:
        for _ in range(times):
            for _ in range(batches):
                twin.original_next(iterator)
            began = perf_counter()  # ending the workers is part of the turn
            with suppress(StopIteration):
                twin.original_next(iterator)
            iterator = twin.start(clone, DataLoader.__iter__)
            twin.original_next(iterator)
            yield perf_counter() - began
            batches = max(1, len(clone.batch_sampler)) - 1 if clone.batch_sampler is not None else batches - 1
    finally:
        twin.stop(iterator)


def _is_plain(batches: Any) -> bool:
    """Whether batches are formed by torch's own sampler, not by one of the user's."""
    return type(batches) is BatchSampler


def samples_in(batch: Any, clone: Any) -> int | None:
    """Samples in a batch: as the loader forms them, else the first dimension of its first tensor."""
    size = getattr(getattr(clone, "batch_sampler", None), "batch_size", None) or clone.batch_size
    if isinstance(size, int):
        return size
    first = next((t for t in tensors_in(batch) if t.dim()), None)
    return None if first is None else int(first.shape[0])


def in_words(error: Exception, patience: float) -> str:
    """What went wrong with a setting, in one line that says what to do where that is known."""
    text = str(error).strip()
    last = text.splitlines()[-1] if text else ""
    if text.startswith(TIMED_OUT):
        return (
            f"no batch came for {patience:.0f} s: a worker hangs (often a lock, a connection or a thread pool made before "
            "the workers were forked; make it in the first __getitem__, or try --multiprocessing-context spawn)"
        )
    if "killed by signal" in text or "exited unexpectedly" in text:
        how = "Killed" if "Killed" in text else last
        if "Bus error" in text:
            return "a worker was ended by a bus error: /dev/shm is full (Docker: --shm-size)"
        return f"a worker died ({how}): most often the system's out-of-memory killer; fewer workers need less memory"
    if type(error).__name__ == "PicklingError" or "pickle" in last.lower():
        return f"the data set cannot be sent to workers that are spawned: {last}"
    name = type(error).__name__
    return last if last.startswith(f"{name}: ") else f"{name}: {last}"  # what a worker raised comes with its own traceback
