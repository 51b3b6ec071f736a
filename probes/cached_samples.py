"""Treatment: samples, or what their first transforms make of them, kept in memory."""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset, default_collate

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.kept_samples import KeptPrefix, KeptSamples
from perfdoc.inject.feed.twin import start_method
from perfdoc.inject.feed.whole_batches import makes_batches
from perfdoc.inject.samples import fixed_part
from perfdoc.inject.samples.few_samples import FewSamples, no_room
from perfdoc.inject.samples.fixed_part import FixedPart
from perfdoc.inject.samples.out_of_turn import SampleFailed

IN_MEMORY = 50e-6
"""Maximum time for a sample, in seconds, for it to be called as good as in memory: what a few indexing operations take."""
LEAST_SHARE = 0.1
"""Minimum share of a sample's time that its first transforms take for their result to be worth keeping."""


class CachedSamples(Treatment):
    """What is the same every time a sample is made, made once; tried with as many samples as are made in three seconds."""

    slug = "cached_samples"
    title = "prepared samples kept in memory"
    numerics = False
    role = "trade_off"
    phases = ("data",)

    def __init__(self) -> None:
        self._part: FixedPart | None = None

    def offer(self, loop: Loop) -> Offer:
        """Offered where samples, or the first of their transforms, involve no chance, take time, and would fit into memory."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        loader = loop.loaders[0].loader
        why = _why_not(loader)
        if why:
            return Offer("not applicable", reason=why)
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks the data set is not swapped: scan with one")
        try:
            part = fixed_part.find(loader)
        except SampleFailed as error:
            return Offer("not applicable", reason=f"its samples cannot be made several times: {error}")
        if part is None:
            return Offer("not applicable", reason="neither a sample nor what its first transforms make was the same every time")
        if part.seconds < IN_MEMORY:
            return Offer("not applicable", reason="samples are in memory already")
        if part.fixed_seconds < LEAST_SHARE * part.seconds:
            return Offer("not applicable", reason="what is the same every time takes little of a sample's time")
        needed = part.bytes * len(loader.dataset)
        why = no_room(needed, loader, "prepared")
        if why:
            return Offer("not applicable", reason=why)
        self._part = part
        return Offer("offered", (Level("on", f"keep {_words(part)} in memory ({max(1.0, needed / 2**20):.0f} MiB)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Fill a cache and serve its samples."""
        part, handle = self._part, loop.loaders[0]
        if part is not None:
            handle.feed_dataset(self.slug, lambda dataset: FewSamples(dataset, _kept(dataset, part, handle.loader)))

    def restore(self, loop: Loop) -> None:
        """Make all samples anew."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)


def _why_not(loader: Any) -> str:
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return "samples of a stream cannot be kept by their indices"
    if makes_batches(dataset):
        return "the data set makes whole batches itself (__getitems__)"
    if loader.num_workers and start_method(loader) != "fork":
        return "workers that are not forked start with an empty cache"
    return ""


def _words(part: FixedPart) -> str:
    return "samples" if part.whole else f"the result of {', '.join(part.names)}"


def _kept(dataset: Any, part: FixedPart, loader: Any) -> Any:
    if part.chain is None:
        return KeptSamples(dataset, copied=loader.collate_fn is not default_collate)
    return KeptPrefix(dataset, part.chain.transforms, part.count)
