"""Treatment: how far workers work ahead, and whether batches wait for their turn."""

from __future__ import annotations

from typing import Any

from perfdoc.core.treatment import Level, Loop, Offer, Treatment

DEEPER = 4
"""Times as deep as the user's: two batches a worker is torch's default."""


class Prefetching(Treatment):
    """``prefetch_factor`` four times as deep, and ``in_order=False``, for loaders with workers."""

    slug = "prefetching"
    contradicts = ("dataloader_workers=0",)
    title = "prefetching of workers"
    numerics = False
    phases = ("data",)

    def offer(self, loop: Loop) -> Offer:
        """Offered where the loop's loaders have workers; ``in_order`` from torch 2.6 on."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        loader = loop.loaders[0].loader
        if not loader.num_workers:
            return Offer("not applicable", reason="without workers nothing is prefetched")
        levels = [Level("deeper", f"prefetch_factor={DEEPER * (loader.prefetch_factor or 2)}")]
        if getattr(loader, "in_order", False):
            levels.append(Level("any_order", "in_order=False"))
        return Offer("offered", tuple(levels))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve batches from twins that work further ahead, or deliver what is ready first."""
        for handle in loop.loaders:
            deeper = DEEPER * (handle.loader.prefetch_factor or 2)
            settings: dict[str, Any] = {"prefetch_factor": deeper} if level == "deeper" else {"in_order": False}
            handle.feed_settings(f"{self.slug}={level}", settings)

    def restore(self, loop: Loop) -> None:
        """Serve batches as the user set it."""
        for handle in loop.loaders:
            for level in ("deeper", "any_order"):
                handle.feed_settings(f"{self.slug}={level}", None)
