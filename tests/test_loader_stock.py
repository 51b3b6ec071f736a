"""Tests of what becomes of prefetched batches when the loop changes from one arm to another."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from perfdoc.inject.loaders import Source

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
