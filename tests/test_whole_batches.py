"""Data sets asked for a whole batch at once: where that may be tried, and that the loop gets the same batches."""

import pickle
import random

import numpy
import pytest
import torch
from perfdoc_probes.item_by_item import ItemByItem
from perfdoc_probes.whole_batches import WholeBatches, same, why_not, written
from test_rules import findings, make
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data import random_split as split

from perfdoc.core.measurement import Measurement
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.whole_batches import WholeBatchDataset

X = torch.randn(64, 3, 5)
Y = torch.arange(64)


class Rows(Dataset):
    """Arrays in memory, as people index them."""

    def __init__(self):
        self.x, self.y = X.numpy(), Y.numpy()

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return {"x": torch.from_numpy(self.x[i]) / 2, "y": self.y[i]}


class Branching(Rows):
    """Looks at each sample."""

    def __getitem__(self, i):
        return self.x[i] if self.y[i] > 10 else -self.x[i]


class Noisy(Rows):
    """Draws a number for each sample."""

    def __getitem__(self, i):
        return self.x[i] + numpy.random.rand()


class Normalised(Rows):
    """Divides by what it finds in the sample: over a whole batch that is something else."""

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]) / float(abs(self.x[i]).max())


class Batched(Rows):
    """Makes whole batches by itself."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Stream(IterableDataset):
    """A stream."""

    def __iter__(self):
        return iter(X)


def stacked(samples):
    """Somebody's own collate function."""
    return torch.stack([x for x, _ in samples])


@pytest.mark.parametrize("dataset", [TensorDataset(X, Y), Subset(TensorDataset(X, Y), [5, 6, 7, 40]), Rows(),
                                     split(Rows(), [32, 32])[0], X])
def test_slices_of_memory_are_asked_for_at_once(dataset):
    """Tensors, parts of them, and a data set of one's own that only indexes arrays."""
    assert why_not(DataLoader(dataset, batch_size=4)) == ""


@pytest.mark.parametrize(("loader", "why"), [
    (DataLoader(Branching(), batch_size=4), "raises ValueError"),
    (DataLoader(Noisy(), batch_size=4), "others than one by one"),
    (DataLoader(Normalised(), batch_size=4), "others than one by one"),
    (DataLoader(list(X), batch_size=4), "raises TypeError"),
    (DataLoader(Batched(), batch_size=4), "__getitems__"),
    (DataLoader(Subset(Batched(), range(9)), batch_size=4), "__getitems__"),
    (DataLoader(Stream(), batch_size=4), "stream"),
    (DataLoader(TensorDataset(X, Y)), "one sample"),
    (DataLoader(TensorDataset(X, Y), batch_size=4, collate_fn=stacked), "collate function"),
    (DataLoader(Rows(), batch_size=None, sampler=BatchSampler(range(64), 4, False)), "whole batches already"),
])
def test_what_is_more_than_a_slice_is_left_alone(loader, why):
    """Whatever gives other values for several indices, or raises, or makes batches already, is not tried, and why is said."""
    assert why in why_not(loader)


def test_looking_leaves_the_random_numbers_as_they_were():
    """The numbers that come after the comparison are those that come without it."""
    states = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].copy()
    why_not(DataLoader(Noisy(), batch_size=4, shuffle=True))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (numpy.random.get_state()[1] == states[2]).all()


class Loop:
    """A held loader."""

    ranks = 1

    def __init__(self, loader):
        handle = Handle(0, loader, "train.py:1")
        handle._iterator = lambda: None
        handle.hold()
        self.loaders = [handle]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("dataset", [TensorDataset(X, Y), Subset(Rows(), range(10, 40))])
def test_the_loop_gets_the_same_batches(workers, dataset):
    """Values, order and containers of the batches are those of the user's own loader, with and without a worker."""
    loader = DataLoader(dataset, batch_size=4, num_workers=workers)
    own = list(loader)[:3]
    loop = Loop(loader)
    treatment = WholeBatches()
    assert treatment.offer(loop).status == "offered"
    treatment.apply(loop, "on")
    try:
        fetched = [loop.loaders[0].fetch() for _ in range(3)]
        assert same(own, fetched)
        assert type(fetched[0]) is type(own[0])
        treatment.restore(loop)
        assert loop.loaders[0].source_key == Loop(loader).loaders[0].source_key
        assert same(own, [loop.loaders[0].fetch() for _ in range(3)])
    finally:
        loop.loaders[0].close()


def test_workers_that_are_spawned_can_make_them():
    """What they are sent is unpickled there, and torch's collate function leaves its batches as they are."""
    dataset = pickle.loads(pickle.dumps(WholeBatchDataset(TensorDataset(X, Y))))
    x, y = default_collate(dataset.__getitems__([3, 1]))
    assert torch.equal(x, X[[3, 1]])
    assert torch.equal(y, Y[[3, 1]])


def test_a_batch_is_one_call():
    """The data set is called once for every batch, with all its indices."""
    calls = []

    class Noting(TensorDataset):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    loop = Loop(DataLoader(Noting(X, Y), batch_size=4))
    WholeBatches().apply(loop, "on")
    loop.loaders[0].fetch()
    assert calls == [[0, 1, 2, 3]]


def test_the_change_is_written_as_a_person_would():
    """The sampler, the size and what becomes of the last batch are those of the user's loader."""
    data = TensorDataset(X, Y)
    shuffled = DataLoader(data, batch_size=8, shuffle=True, drop_last=True)
    assert written(shuffled) == "batch_size=None, sampler=BatchSampler(RandomSampler(dataset), 8, drop_last=True)"
    by_hand = DataLoader(data, batch_size=8, sampler=[3, 2, 1, 0])
    assert written(by_hand) == "batch_size=None, sampler=BatchSampler(sampler, 8, drop_last=False)"
    batches = DataLoader(data, batch_sampler=[[1, 2], [0, 3]])
    assert written(batches) == "batch_size=None, sampler=batch_sampler"
    assert len(list(DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), 8, drop_last=True)))) == 8


def test_the_probe_makes_batches_both_ways():
    """Of the loader's size, sample by sample and at once; where that cannot be done, the reason is told."""
    calls = []

    class Noting(TensorDataset):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    single, whole = ItemByItem().measure(Loop(DataLoader(Noting(X, Y), batch_size=16, shuffle=True)), {})
    assert (single.conditions["batch_size"], len(single.samples), len(whole.samples)) == (16, 3, 3)
    assert [len(index) for index in calls if isinstance(index, list) and len(index) == 16] == [16] * 4
    assert min(*single.samples, *whole.samples) > 0
    found = ItemByItem().measure(Loop(DataLoader(list(X), batch_size=4)), {})
    assert all("TypeError" in entry.reason for entry in found)


def timed(single=0.04, whole=0.001):
    return [Measurement("batch.one_by_one", "s", (single,)), Measurement("batch.at_once", "s", (whole,))]


def test_the_gain_is_told_at_the_loader():
    """Calls a batch, the gain that was measured, and what another number of workers makes of it."""
    arms = {"whole_batches=on": 4.0, "dataloader_workers=1+whole_batches=on": 2.0}
    found = findings(make(arms, measurements=timed()))["PD118"]
    assert (found.verdict, found.where) == ("helps", "train.py:9")
    assert f"in 8 calls a batch; cut out at once, the step is {found.effect.speedup:.2f}x faster" in found.title
    assert found.effect.speedup == pytest.approx(4.0, rel=0.05)
    assert found.evidence[0] == "a batch takes 40 ms one by one, 1 ms at once"
    assert any(line.startswith("with num_workers=1: ") for line in found.evidence)


def test_without_an_answer_of_the_loop_a_batch_both_ways_is_told():
    """No more than the loop waits for data is said to be won; and nothing where that could not be felt."""
    found = findings(make(measurements=timed()))["PD118"]
    assert (found.verdict, found.seconds_saved_a_step) == ("undecided", pytest.approx(0.03))
    assert "40 ms, cut out at once 1 ms" in found.title
    assert "BatchSampler" in found.fix
    assert "PD118" not in findings(make(measurements=timed(single=0.0015)))
