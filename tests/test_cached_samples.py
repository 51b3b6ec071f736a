"""What is the same every time a sample is made: found by making it several times, kept in memory, and given back."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from perfdoc_probes.cached_samples import CachedSamples
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.samples import fixed_part

SIDE = 150
"""A sample of so many numbers a side takes longer than fifty microseconds to make."""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a machine where several tests run at a time a sample may take a hundred times as long."""
    monkeypatch.setattr(fixed_part, "PATIENCE", 60.0)


class Loop:
    """A loop that fetches from one loader."""

    device, cores, ranks = "cpu", 2.0, 1

    def __init__(self, dataset, workers=0, **more):
        self.loader = DataLoader(dataset, batch_size=4, num_workers=workers, **more)
        handle = Handle(0, self.loader, "train.py:1")
        handle._kept = self.loader
        self.loaders = [handle]


class Made(Dataset):
    """Samples that are computed from their index; counts how often, and adds what ``chance`` draws."""

    def __init__(self, chance=lambda: 0.0, length=8):
        self.chance, self.length, self.asked = chance, length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        rows = torch.arange(SIDE * SIDE, dtype=torch.float32).reshape(SIDE, SIDE) + index
        return (rows.sort(descending=True).values + self.chance())[:2, :2].clone(), index


class Pictures(Dataset):
    """Samples that go through a chain of transforms."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(torch.full((3, 64, 64), float(index)))


class Slow:
    """A transform that takes time and involves no chance."""

    def __init__(self):
        self.calls = 0

    def __call__(self, picture):
        self.calls += 1
        return picture + torch.arange(SIDE * SIDE).sort(descending=True).values[-1]


def unchanged(picture):
    """A transform that takes no time."""
    return picture


def drawn(loop):
    return loop.loaders[0].draw()


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_samples_are_kept_and_given_back(workers):
    """Samples without chance: none is made again while they are kept, values are the same, and afterwards all are made anew."""
    loop, treatment = Loop(Made(), workers), CachedSamples()
    before = drawn(loop)
    offer = treatment.offer(loop)
    assert offer.levels[0].change == "keep samples in memory (1 MiB)"
    treatment.apply(loop, "on")
    loop.loaders[0].feed(0)
    values, places = drawn(loop)
    assert torch.equal(values, before[0])
    assert torch.equal(places, before[1])
    asked = len(loop.loader.dataset.asked)
    drawn(loop), drawn(loop)
    assert len(loop.loader.dataset.asked) == asked
    treatment.restore(loop)
    drawn(loop)
    assert len(loop.loader.dataset.asked) > asked
    loop.loaders[0].close()


@pytest.mark.parametrize("chance", [
    random.random, lambda: float(torch.rand(())), numpy.random.rand, numpy.random.default_rng(0).random,
    lambda: 0.0 * random.random(),
], ids=["python", "torch", "numpy", "numpy's own generator", "drawn and thrown away"])
def test_samples_that_involve_chance_are_not_kept(chance):
    """Whichever generator is drawn from, also where nothing comes of it this time; the global generators are put back."""
    loop = Loop(Made(chance))
    before = random.getstate(), torch.get_rng_state()
    offer = CachedSamples().offer(loop)
    assert offer.status == "not applicable"
    assert offer.reason == "neither a sample nor what its first transforms make was the same every time"
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("compose", [v1.Compose, v2.Compose])
def test_of_transforms_the_first_are_kept_and_the_random_ones_run_again(compose):
    """Only the slow transform before the first random one is left out; inside of a Subset too, and the list is as it was."""
    slow, flip = Slow(), v1.RandomErasing(p=0.5)
    chain = compose([slow, flip, Slow()])
    loop, treatment = Loop(Subset(Pictures(chain), range(8))), CachedSamples()
    offer = treatment.offer(loop)
    assert offer.levels[0].change.startswith("keep the result of Slow in memory")
    treatment.apply(loop, "on")
    pictures = drawn(loop)
    calls = slow.calls
    seen = torch.stack([drawn(loop)[0] for _ in range(16)])
    assert slow.calls == calls, "it is called no more"
    assert pictures.shape == (4, 3, 64, 64)
    assert len(seen.flatten(1).unique(dim=0)) > 1, "erasing goes on"
    treatment.restore(loop)
    assert list(chain.transforms)[:2] == [slow, flip]
    assert len(chain.transforms) == 3
    drawn(loop)
    assert slow.calls > calls


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(8))


class Failing(Made):
    def __getitem__(self, index):
        raise RuntimeError("no such sample")


@pytest.mark.parametrize(("dataset", "why"), [
    (Stream(), "samples of a stream cannot be kept by their indices"),
    (Failing(), "its samples cannot be made several times: RuntimeError: no such sample"),
    (Pictures(lambda picture: picture), "samples are in memory already"),
    (Made(length=10**12), "too much here"),
    (Pictures(v1.Compose([unchanged, v1.RandomErasing(), Slow(), Slow()])), "takes little of a sample's time"),
])
def test_why_samples_are_not_kept_is_said(dataset, why):
    """Each reason in words that name it."""
    offer = CachedSamples().offer(Loop(dataset))
    assert offer.status == "not applicable"
    assert why in offer.reason


def test_the_data_set_is_as_it_was_after_the_look():
    """What a sample opens at first use is closed again, and the list of transforms has nothing of perfdoc's in it."""

    class Opens(Pictures):
        file = None

        def __getitem__(self, index):
            self.file = self.file or object()
            return super().__getitem__(index)

    chain = v1.Compose([v1.RandomErasing()])
    dataset = Opens(chain)
    assert fixed_part.find(DataLoader(dataset)) is None
    assert "file" not in vars(dataset)
    assert len(chain.transforms) == 1
