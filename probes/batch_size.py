"""Treatment: larger batches, judged by samples a second."""

from __future__ import annotations

from perfdoc.treatment import Level, Loop, Offer, Treatment

FACTORS = (2, 4)
"""How many of the user's batches are joined to one."""


class BatchSize(Treatment):
    """Batches two and four times as large, made by the user's own loader. Never part of a plan: it changes the training.

    A batch that does not fit is survived: the step is undone, the arm is given up, the scan goes on.
    """

    slug = "batch_size"
    title = "larger batches"
    numerics = False
    planned = False
    phases = ("forward", "backward", "optimizer")

    def offer(self, loop: Loop) -> Offer:
        """Offered where the loader forms the batches, one optimizer step each, in one process."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        if loop.ranks > 1:
            return Offer("not applicable", reason="several ranks share the batch")
        if not all(handle.batches_can_grow for handle in loop.loaders):
            return Offer("not applicable", reason="the data set makes its batches itself")
        size = loop.loaders[0].loader.batch_size
        known = [size] if isinstance(size, int) else []
        lengths = [handle.batches_an_epoch for handle in loop.loaders]
        levels = tuple(
            Level(f"x{factor}", f"batch_size={known[0] * factor}" if known else f"batches {factor} times as large")
            for factor in FACTORS
            if all(length is None or length >= factor for length in lengths)
        )
        if not levels:
            return Offer("not applicable", reason="an epoch is a single batch already")
        return Offer("offered", levels)

    def work(self, level: str) -> float:
        """Samples a step, relative to the user's own."""
        return float(level.removeprefix("x"))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve larger batches from the next fetch on."""
        for handle in loop.loaders:
            handle.feed_grown(int(level.removeprefix("x")))

    def restore(self, loop: Loop) -> None:
        """Serve the user's batches."""
        for handle in loop.loaders:
            handle.feed_grown(1)
