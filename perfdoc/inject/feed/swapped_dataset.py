"""The user's own data set with something swapped while its samples are made: a decoder, a cache, the threads of a library.

The swap is in force only inside of ``__getitem__`` in the training process, so that nothing else of the script meets it; in a
worker, which makes nothing but samples, it stays on from the first one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Swap(Protocol):
    """What is swapped. Pickled along with the data set where workers are spawned."""

    def enter(self) -> None:
        """Put the change in force in this process."""

    def leave(self) -> None:
        """Undo it, exactly."""


class Transparent:
    """Attributes are those of the data set inside: those that a script reads, and those that a worker_init_fn sets."""

    _perfdoc_inner: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_perfdoc")):
            raise AttributeError(name)
        return getattr(self._perfdoc_inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_perfdoc"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._perfdoc_inner, name, value)


class SwappedDataset(Transparent, Dataset):  # type: ignore[misc]
    """A map-style data set under a :class:`Swap`. Attributes are those of the data set inside."""

    def __init__(self, inner: Any, swap: Swap) -> None:
        self._perfdoc_inner = inner
        self._perfdoc_swap = swap
        self._perfdoc_entered = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_perfdoc_entered": False}

    def __len__(self) -> int:
        return len(self._perfdoc_inner)

    def __getitem__(self, index: Any) -> Any:
        return self._perfdoc_made(self._perfdoc_inner.__getitem__, index)

    @property
    def __getitems__(self) -> Any:
        """Batches at a time, where the data set inside can make them; else None, as torch's fetcher asks for it."""
        inner = getattr(self._perfdoc_inner, "__getitems__", None)
        return None if inner is None else lambda indices: self._perfdoc_made(inner, indices)

    def _perfdoc_made(self, make: Any, index: Any) -> Any:
        if get_worker_info() is not None:
            if not self._perfdoc_entered:
                self._perfdoc_entered = True
                self._perfdoc_swap.enter()
            return make(index)
        self._perfdoc_swap.enter()
        try:
            return make(index)
        finally:
            self._perfdoc_swap.leave()


class SwappedIterable(Transparent, IterableDataset):  # type: ignore[misc]
    """A data set that is a stream, under a :class:`Swap`."""

    def __init__(self, inner: Any, swap: Swap) -> None:
        self._perfdoc_inner = inner
        self._perfdoc_swap = swap

    def __iter__(self) -> Iterator[Any]:
        stream = iter(self._perfdoc_inner)
        while True:
            self._perfdoc_swap.enter()
            try:
                value = next(stream)
            except StopIteration:
                return
            finally:
                self._perfdoc_swap.leave()
            yield value


def swapped(dataset: Any, swap: Swap) -> Any:
    """``dataset`` under ``swap``."""
    return SwappedIterable(dataset, swap) if isinstance(dataset, IterableDataset) else SwappedDataset(dataset, swap)
