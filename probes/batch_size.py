"""Treatment: larger batches, judged by samples a second."""

from __future__ import annotations

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.system import process_use

FACTORS = (2, 4)
"""How many of the user's batches are joined to one."""
MORE_FACTORS = (8, 16)
"""Further ones on a GPU, as far as its memory is likely to hold them."""


class BatchSize(Treatment):
    """Batches two and four times as large, made by the user's own loader. Never part of a plan: it changes the training.

    A batch that does not fit is survived: the step is undone, the arm is given up, the scan goes on.
    """

    slug = "batch_size"
    title = "larger batches"
    numerics = False
    role = "trade_off"
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
        factors = (*FACTORS, *(factor for factor in MORE_FACTORS if factor <= _room(loop)))
        levels = tuple(
            Level(f"x{factor}", f"batch_size={known[0] * factor}" if known else f"batches {factor} times as large")
            for factor in factors
            if all(length is None or length >= factor for length in lengths)
        )
        if not levels:
            return Offer("not applicable", reason="an epoch is a single batch already")
        fitting = tuple(level for level in levels if loop.device != "cpu" or _fits(self.work(level.name)))
        if not fitting:
            why = "the memory left may not hold a batch twice as large: scan where there is more"
            return Offer("untestable here", reason=why)
        return Offer("offered", fitting)

    def work(self, level: str) -> float:
        """Samples a step, relative to the user's own."""
        return float(level.removeprefix("x"))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve larger batches from the next fetch on."""
        for handle in loop.loaders:
            handle.feed_multiplied(int(level.removeprefix("x")))

    def restore(self, loop: Loop) -> None:
        """Serve the user's batches."""
        for handle in loop.loaders:
            handle.feed_multiplied(1)


def _fits(factor: float) -> bool:
    """Whether the host's memory holds a batch ``factor`` times as large for certain.

    The process has held its code, weights and one batch at most; so many times the batch takes at most so many times that.
    """
    free, peak = process_use.free_memory(), process_use.peak_memory()
    return free is None or peak is None or free >= (factor - 1) * peak


def _room(loop: Loop) -> float:
    """Memory of the GPU over what the steps so far held at most; 1 where the device does not tell.

    Rather too small: weights and optimizer state do not grow with the batch. What does not fit is survived, but costs time.
    """
    if loop.device != "cuda":
        return 1.0
    peak = torch.cuda.max_memory_reserved()
    return float(torch.cuda.mem_get_info()[1]) / peak if peak else 1.0
