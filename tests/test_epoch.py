"""Epochs of a held loop: where they would end, and that they end there once the script was seen to count on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, TensorDataset

from perfdoc.inject.feed import twin
from perfdoc.inject.feed.epoch import Epoch, natural_length

DATA = TensorDataset(torch.arange(40.0))


class Endless(Sampler):
    """A sampler with a length that never ends, as several trainers have it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Any:
        while True:
            yield from self.inner

    def __len__(self) -> int:
        return len(self.inner)


class Backwards(Sampler):
    """A sampler of the user's own kind that ends."""

    def __iter__(self) -> Any:
        return iter(range(39, -1, -1))

    def __len__(self) -> int:
        return 40


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(40))


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (DataLoader(DATA, batch_size=8), 5),
        (DataLoader(DATA, batch_size=7, drop_last=True, shuffle=True), 5),
        (DataLoader(DATA, batch_size=None), 40),
        (DataLoader(DATA, batch_size=8, sampler=Backwards()), 5),
        (DataLoader(DATA, batch_sampler=Endless(BatchSampler(RandomSampler(DATA), 8, False))), None),
        (DataLoader(DATA, batch_size=8, sampler=Endless(Backwards())), None),
        (DataLoader(Stream(), batch_size=8), None),
    ],
)
def test_where_an_epoch_ends(loader: Any, length: int | None) -> None:
    """A loader's length is where its epoch ends only if its sampler ends there; endless samplers have a length too."""
    assert natural_length(loader, None, 0) == length


def test_what_was_seen_counts_more_than_what_is_said() -> None:
    """An epoch that was seen to end tells its length; a loop that is beyond the length already has none."""
    assert natural_length(DataLoader(Stream()), 17, 3) == 17
    assert natural_length(DataLoader(DATA, batch_size=8), None, 6) is None


def test_the_loop_is_held_until_it_is_to_be_natural() -> None:
    """Held, it is given batches without end and told once that it overran; natural, it ends where the loader would."""
    loader = DataLoader(DATA, batch_size=8)
    iterator = iter(loader)
    next(iterator)
    epoch, heard = Epoch(), []
    epoch.overran = heard.append
    epoch.hold(loader, iterator)
    assert epoch.position == 1
    for _ in range(30):
        epoch.take()
    assert heard == [5]
    epoch.natural = True
    with pytest.raises(StopIteration):
        epoch.take()
    epoch.begin()
    for _ in range(5):
        epoch.take()
    with pytest.raises(StopIteration):
        epoch.take()
    assert epoch.turns == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_held_loader_is_iterated_without_workers(workers: int) -> None:
    """What the user's loop holds of a held loader starts no processes: its batches come from elsewhere."""
    loader = DataLoader(DATA, batch_size=8, num_workers=workers, persistent_workers=workers > 0)
    iterator = twin.placeholder(loader)
    assert not hasattr(iterator, "_workers")
    assert iterator._perfdoc_loader is loader
    assert len(iterator) == 5


def test_what_is_iterated_anew_ends() -> None:
    """An evaluation over the training data, within the held loop, comes to its end though the loop itself does not."""
    loader = DataLoader(DATA, batch_size=8)
    epoch = Epoch()
    epoch.hold(loader, None)
    for _ in range(12):
        epoch.take()
    epoch.begin()
    for _ in range(5):
        epoch.take()
    with pytest.raises(StopIteration):
        epoch.take()
