"""Treatment: batches cut out of memory at once, in place of one call a sample and a collation."""

from __future__ import annotations

import random
from time import perf_counter
from typing import Any

from torch.utils.data import IterableDataset, default_collate

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.whole_batches import WholeBatchDataset, asked_at_once, makes_batches
from perfdoc.inject.samples.equal_values import same
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system.random_state import RandomState

BATCHES, SAMPLES = 4, 8
"""Batches that are compared, and samples in each, before a data set is taken to answer for a whole batch as it does for single
samples."""
PATIENCE = 0.3
"""Maximum time in seconds for comparing them: samples that take longer are no slices of something in memory."""


class WholeBatches(Treatment):
    """The data set asked once a batch, with all its indices: same samples, same order, same numbers."""

    slug = "whole_batches"
    title = "batches cut out at once"
    numerics = False
    interacts = ("dataloader_workers",)
    phases = ("data",)

    def offer(self, loop: Loop) -> Offer:
        """Offered where every loader's data set gives for a list of indices what collated samples are, value by value."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        for handle in loop.loaders:
            why = why_not(handle.loader)
            if why:
                return Offer("not applicable", reason=why)
        return Offer("offered", (Level("on", written(loop.loaders[0].loader)),))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve batches that the data set hands over whole."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, WholeBatchDataset)

    def restore(self, loop: Loop) -> None:
        """Serve batches collated from single samples."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)


def written(loader: Any) -> str:
    """The arguments of the loader, as a person would write them."""
    sampler, batches = type(loader.sampler).__name__, loader.batch_sampler
    drawn = f"{sampler}(dataset)" if sampler in ("RandomSampler", "SequentialSampler") else "sampler"
    size, drop_last = getattr(batches, "batch_size", None), getattr(batches, "drop_last", None)
    if type(batches).__name__ != "BatchSampler" or not isinstance(size, int):
        return "batch_size=None, sampler=batch_sampler"
    return f"batch_size=None, sampler=BatchSampler({drawn}, {size}, drop_last={drop_last})"


def why_not(loader: Any) -> str:
    """Why the data set cannot be asked for whole batches; empty where it gives the very values that collated samples have.

    Compared on :data:`BATCHES` small batches. Random generators and the attributes of the data set are put back afterwards.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return "samples of a stream cannot be asked for by their indices"
    if loader.batch_sampler is None:
        return "the data set is asked for whole batches already"
    if getattr(loader.batch_sampler, "batch_size", None) == 1:
        return "its batches have one sample"
    if loader.collate_fn is not default_collate:
        return "batches are put together by a collate function of the script's own"
    if makes_batches(dataset):
        return "the data set makes whole batches itself (__getitems__)"
    kept = RandomState(loader)
    try:
        with Unchanged(dataset):
            return _compared(dataset, len(dataset))
    except Exception as error:  # the user's code, asked for what it was not written for: that is the answer
        return f"asked for several samples at once, the data set raises {type(error).__name__}"
    finally:
        kept.restore()


def _compared(dataset: Any, length: int) -> str:
    if length < 2:
        return "it has one sample"
    draw = random.Random(0)
    start = perf_counter()
    for _ in range(BATCHES):
        indices = [draw.randrange(length) for _ in range(SAMPLES)]
        samples = []
        for index in indices:
            samples.append(dataset[index])
            if perf_counter() - start > PATIENCE:
                return "its samples take too long to be slices of something in memory"
        if not same(default_collate(samples), asked_at_once(dataset, indices)):
            return "asked for several samples at once, the data set gives others than one by one"
    return ""
