"""Threads that libraries start in workers: found where samples keep them at work, one while it is tried, given back."""

from __future__ import annotations

import sys

import numpy
import perfdoc_probes.worker_threads as probe
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.system import native_threads

SIDE = 700


class Loop:
    """A loop that fetches from one loader."""

    device, cores, ranks = "cpu", 2.0, 1

    def __init__(self, dataset, workers=1):
        self.loader = DataLoader(dataset, batch_size=2, num_workers=workers)
        handle = Handle(0, self.loader, "train.py:1")
        handle._kept = self.loader
        self.loaders = [handle]


class Products(Dataset):
    """Products of matrices; a sample is the number of threads that BLAS may use for it."""

    def __init__(self):
        self.matrix = numpy.ones((SIDE, SIDE))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        (self.matrix @ self.matrix).sum()
        return torch.tensor([limit.get() for limit in native_threads.blas()])


class Loops(Products):
    """Samples that one thread makes."""

    def __getitem__(self, index):
        return sum(range(100_000))


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """NumPy's BLAS has two threads, and OpenCV, which another test may have imported, is nobody's here."""
    monkeypatch.setattr(probe, "_opencv_used", lambda: False)
    limits = native_threads.blas()
    assert limits, "NumPy's wheel brings OpenBLAS"
    before = [limit.get() for limit in limits]
    for limit in limits:
        limit.put(2)
    yield
    for limit, count in zip(limits, before, strict=True):
        limit.put(count)


def test_a_worker_has_one_blas_thread_while_it_is_tried():
    """In the workers one, in the training process two as before; afterwards two in the workers again."""
    loop, treatment = Loop(Products()), probe.WorkerThreads()
    treatment._blas = True
    handle = loop.loaders[0]
    assert handle.draw().unique().tolist() == [2]
    treatment.apply(loop, "one")
    assert handle.draw().unique().tolist() == [1]
    assert {limit.get() for limit in native_threads.blas()} == {2}
    treatment.restore(loop)
    assert handle.draw().unique().tolist() == [2]
    handle.close()


def test_in_the_training_process_threads_are_put_back_after_every_sample():
    """Without workers the samples have one thread, and the script's own products after them two."""
    loop, treatment = Loop(Products(), workers=0), probe.WorkerThreads()
    treatment._blas = True
    treatment.apply(loop, "one")
    assert loop.loaders[0].draw().unique().tolist() == [1]
    assert {limit.get() for limit in native_threads.blas()} == {2}


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two cores")
def test_it_is_offered_where_samples_keep_several_threads_at_work():
    """Products of large matrices do; a loop of Python does not, although NumPy is there with two threads."""
    offer = probe.WorkerThreads().offer(Loop(Products()))
    assert [level.change for level in offer.levels] == ['threadpool_limits(1, "blas") in the workers']
    offer = probe.WorkerThreads().offer(Loop(Loops()))
    assert (offer.status, offer.reason) == ("already on", "one thread makes a sample")


def test_without_workers_it_is_not_offered():
    """The samples are made beside nothing."""
    assert probe.WorkerThreads().offer(Loop(Products(), workers=0)).status == "not applicable"


def test_openblas_is_found_without_threadpoolctl(monkeypatch):
    """By its file among those of this process, and its functions under the names that NumPy's wheel gives them."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(native_threads.importlib.util, "find_spec", lambda name: None)
    limits = native_threads.blas()  # NumPy's, and that of OpenCV where another test has imported it
    assert limits
    for limit in limits:
        limit.put(1)
    assert {limit.get() for limit in limits} == {1}


def test_a_data_set_that_fails_is_no_failure_of_perfdoc():
    """Why it is not offered is said in the data set's words."""

    class Failing(Products):
        def __getitem__(self, index):
            raise OSError("no such file")

    offer = probe.WorkerThreads().offer(Loop(Failing()))
    assert (offer.status, offer.reason) == ("not applicable", "a sample cannot be made here: OSError: no such file")
