"""Ceiling: the step without its loader, fed one cached batch again and again."""

from __future__ import annotations

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class ComputeCeiling(Treatment):
    """How fast the step would be if batches came for free: the most that any loader change can give."""

    slug = "compute_ceiling"
    title = "compute ceiling (one cached batch, no loader)"
    numerics = False
    role = "ceiling"

    def offer(self, loop: Loop) -> Offer:
        """Offered where the step fetches from a DataLoader."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        return Offer("offered", (Level("on", "one cached batch"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve one batch from memory."""
        for handle in loop.loaders:
            handle.feed_cached(True)

    def restore(self, loop: Loop) -> None:
        """Serve real batches."""
        for handle in loop.loaders:
            handle.feed_cached(False)
