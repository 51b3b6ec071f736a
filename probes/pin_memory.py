"""Treatment: batches in pinned memory."""

from __future__ import annotations

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class PinMemory(Treatment):
    """``DataLoader(pin_memory=...)``, the other way round than the user has it."""

    slug = "pin_memory"
    title = "pinned memory in the loader"
    numerics = False
    interacts = ("non_blocking_copy",)
    phases = ("data", "transfer")

    def offer(self, loop: Loop) -> Offer:
        """Offered on CUDA, where the loop fetches from a DataLoader."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        if loop.device != "cuda":
            return Offer("untestable here", reason="needs a CUDA device: scan there")
        level = "off" if loop.loaders[0].loader.pin_memory else "on"
        return Offer("offered", (Level(level, f"pin_memory={level == 'on'}"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve batches from twins with it, or without."""
        for handle in loop.loaders:
            handle.feed_settings(self.slug, {"pin_memory": level == "on"})

    def restore(self, loop: Loop) -> None:
        """Serve batches as the user set it."""
        for handle in loop.loaders:
            handle.feed_settings(self.slug, None)
