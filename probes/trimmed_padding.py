"""Treatment: batches end with their longest row, where the rest is padding."""

from __future__ import annotations

import functools
import math
from time import perf_counter
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed import padding
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system.batches import shallow
from perfdoc.inject.system.random_state import RandomState

LOOKED_AT = 16
"""Samples that are put together to see whether they are padded."""
FIRST = 2
"""Samples after which the others are not made where no row of tokens is among them."""
PATIENCE = 1.0
"""Maximum time in seconds for making them; with fewer samples the longest row is shorter than in a batch."""
WORTH = 0.05
"""Minimum share of the columns that must be padding in every row for cutting them to be tried."""


class TrimmedPadding(Treatment):
    """Every tensor of a batch with the padded length cut behind the batch's longest row, as a padding collator pads."""

    slug = "trimmed_padding"
    title = "batches padded to their longest row"
    phases = ("forward", "loss", "backward")

    def __init__(self) -> None:
        self._pads: dict[int, int | None] = {}

    def offer(self, loop: Loop) -> Offer:
        """Offered where a mask, or an embedding's padding_idx, says that the last columns are padding in every row."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        why = ""
        for handle in loop.loaders:
            batch = a_batch(handle.loader)
            pad = padding_id(loop, batch, sure=True)
            padded = padding.padded_in(batch, pad)
            why = why or _why_not(batch, padded)
            self._pads[id(handle)] = pad
        if why:
            return Offer("not applicable", reason=why)
        return Offer("offered", (Level("longest", "pad each batch to its longest row"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve batches that are cut where they are put together, in the workers where there are any."""
        for handle in loop.loaders:
            pad = self._pads.get(id(handle))
            handle.feed_settings(self.slug, {"collate_fn": padding.Trimmed(handle.loader.collate_fn, pad)})
            handle.feed_replayed(self.slug, functools.partial(padding.trimmed, pad=pad))

    def restore(self, loop: Loop) -> None:
        """Serve batches as the user pads them."""
        for handle in loop.loaders:
            handle.feed_settings(self.slug, None)
            handle.feed_replayed(self.slug, None)


def _why_not(batch: Any, padded: list[padding.Padded]) -> str:
    if batch is None:
        return "samples of a stream cannot be looked at one by one"
    if not padded:
        return "nothing in a batch says that a part of it is padding"
    if all(one.longest > (1 - WORTH) * one.length for one in padded):
        filled = any(one.used < (1 - WORTH) * one.rows * one.length for one in padded)
        return "the longest row of a batch fills it" + (" (or rows are padded on the left)" if filled else "")
    name = padding.ambiguous(batch, padded)
    return f"{name} has the padded length in another dimension too" if name else ""


def a_batch(loader: Any) -> Any:
    """A small batch of samples from all over the data set, put together by the loader's collate function; None of a stream.

    Random generators and the attributes of the data set are put back. Raises what the data set raises.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        return None
    kept = RandomState(loader)
    try:
        with Unchanged(dataset):
            if loader.batch_sampler is None:
                return loader.collate_fn(dataset[next(iter(loader.sampler))])
            length, samples, start = len(dataset), [], perf_counter()
            for place in range(0, length, max(1, math.ceil(length / LOOKED_AT))):
                samples.append(dataset[place])
                if perf_counter() - start > PATIENCE:
                    break
                if len(samples) == FIRST and not padding.could_be_padded(loader.collate_fn(list(map(shallow, samples)))):
                    break  # pictures, or numbers: what comes later is of the same kind
            return loader.collate_fn(list(map(shallow, samples)))
    finally:
        kept.restore()


def padding_id(loop: Loop, batch: Any, sure: bool = False) -> int | None:
    """The id that fills rows, as far as the batch and the model's embeddings tell; None where no embedding is trained.

    ``sure``: only where an embedding names it as its ``padding_idx``. Another id that rows end in may be part of them.
    """
    embeddings = [m for model in loop.models for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    found = padding.trailing_id(batch) if embeddings else None
    return found if not sure or found in {embedding.padding_idx for embedding in embeddings} else None
