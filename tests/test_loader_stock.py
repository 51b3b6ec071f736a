"""Tests of what becomes of prefetched batches when the loop changes from one arm to another."""

import subprocess
import sys
import time

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.source import Source
from perfdoc.inject.feed.twin import twin

STOCK = 4
"""Batches that two workers keep ready."""


@pytest.fixture
def batches():
    """Batches of a data set in memory from two workers, the first one taken."""
    source = Source(DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=2, num_workers=2), None)
    source.next()
    yield source
    source.close()


def test_a_stock_that_the_loop_waits_for_is_thrown_away_every_time(batches):
    """Where the loop asks for batches as fast as they are made, no block is given any that were made during another."""
    assert batches.drain(1e-6) == 0, "nothing was made before its first block"
    assert [batches.drain(1e-6) for _ in range(3)] == [STOCK] * 3


def test_what_the_first_block_left_is_no_gift_to_the_second():
    """Workers that start within the first block, not before it: their stock is thrown away before the second one."""
    source = Source(DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=2, num_workers=2), None)
    try:
        assert source.drain(1e-6) == 0
        source.next()
        assert source.drain(1e-6) == STOCK
    finally:
        source.close()


def test_a_stock_that_is_always_full_is_kept(batches):
    """Where batches are made many times faster than they are asked for, filling the stock anew would disturb every block."""
    batches.drain(60.0)
    assert batches.drain(60.0) == 2 * STOCK, "thrown away once, and as many made to see how long that takes"
    assert [batches.drain(60.0) for _ in range(3)] == [0, 0, 0]


def test_workers_that_were_ended_fill_a_new_stock_outside_of_the_block(batches):
    """A source whose workers were ended in between starts them, and waits for them, before its block begins."""
    batches.drain(60.0)
    batches.drain(60.0)
    batches.close()
    assert batches.drain(60.0) == STOCK


def test_without_the_duration_of_a_step_everything_is_thrown_away(batches):
    """Probes that time the loader by itself always begin with an empty stock."""
    batches.drain()
    assert [batches.drain(), batches.drain()] == [STOCK, STOCK]


class Slow(Dataset):
    """Samples that take a while, and tell how many were made by now."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.made = torch.zeros(1, dtype=torch.long).share_memory_()

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(self.seconds)
        self.made += 1
        return torch.tensor(index)


@pytest.fixture
def slow():
    """A loader whose two workers need 0.8 s for the stock of four batches, held as a scan holds it."""
    loader = DataLoader(Slow(0.2), batch_size=2, num_workers=2)
    handle = Handle(0, loader, "train.py:1")
    handle.hold()
    yield handle, loader.dataset
    handle.close()


def workers_of(handle):
    """The workers of the user's own setting."""
    return list(handle._sources[None, 1, ()].iterator._workers)


def states(handle):
    """What these do now."""
    return {psutil.Process(worker.pid).status() for worker in workers_of(handle)}


@pytest.mark.parametrize("switch", [
    lambda handle: (handle.feed(0), handle.fetch()),
    lambda handle: (handle.feed_cached(True), handle.fetch(), handle.fetch()),
    lambda handle: (handle.replay([1, 2]), handle.fetch()),
], ids=["other workers", "one batch", "replayed"])
def test_workers_of_another_arm_stand_still(slow, switch):
    """While other batches are served, workers make no stock on the cores of that block, and go on when it is their turn."""
    handle, dataset = slow
    handle.fetch()
    switch(handle)
    time.sleep(0.1)  # a signal takes its time
    assert states(handle) == {psutil.STATUS_STOPPED}
    before = int(dataset.made)
    time.sleep(0.6)
    assert int(dataset.made) == before
    handle.feed(None), handle.feed_cached(False), handle.replay(None)
    assert handle.drain() in (0, 4)
    handle.fetch()
    assert psutil.STATUS_STOPPED not in states(handle)
    for _ in range(500):  # woken workers get to it when the cores let them
        if int(dataset.made) > before:
            break
        time.sleep(0.01)
    assert int(dataset.made) > before


def test_workers_that_stand_still_are_ended(slow):
    """Ending everything takes no longer for workers that rest, and leaves none."""
    handle, _ = slow
    handle.fetch()
    workers = workers_of(handle)
    handle.feed(0)
    handle.fetch()
    begin = time.perf_counter()
    handle.close()
    assert time.perf_counter() - begin < 4
    assert not any(worker.is_alive() for worker in workers)


FAILING = """
from torch.utils.data import DataLoader
import torch
from perfdoc.inject.feed.handle import Handle
loader = DataLoader(torch.arange(64), batch_size=2, num_workers=2)
handle = Handle(0, loader, "train.py:1")
handle.hold()
handle.fetch()
handle.feed(0)
handle.fetch()
raise SystemExit(7)
"""


def test_a_script_that_fails_while_workers_stand_still_ends():
    """The process does not wait for ever for workers that cannot hear it."""
    assert subprocess.run([sys.executable, "-c", FAILING], timeout=60, check=False).returncode == 7


@pytest.mark.parametrize(("slowest", "timeout"), [(0.5, 120.0), (150.0, 600.0)])
def test_a_slow_first_batch_is_no_failure(slowest, timeout):
    """Workers of a data set whose first batch takes minutes are waited for several times as long."""
    loader = DataLoader(TensorDataset(torch.zeros(8)), batch_size=2, num_workers=1)
    loader.__dict__["_perfdoc_slowest"] = slowest
    assert twin(loader, 1, lambda sampler: sampler).timeout == timeout
    assert twin(loader, 0, lambda sampler: sampler).timeout == 0
