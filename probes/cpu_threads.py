"""Treatment: the number of intra-op threads that CPU operators use."""

from __future__ import annotations

import math

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class CpuThreads(Treatment):
    """``torch.set_num_threads``: matters for CPU training, above all together with DataLoader workers."""

    slug = "cpu_threads"
    title = "intra-op threads"
    interacts = ("dataloader_workers",)
    cores = "computing"
    phases = ("optimizer", "loss", "other")

    def __init__(self) -> None:
        self._before: int | None = None

    def offer(self, loop: Loop) -> Offer:
        """Offered for training on the CPU with at least two cores: one thread, half the cores, all cores."""
        if loop.device != "cpu":
            return Offer("not applicable", reason=f"the model computes on {loop.device}, not on CPU threads")
        now = torch.get_num_threads()
        cores = max(1, math.floor(loop.cores))
        counts = sorted({1, max(1, cores // 2), cores} - {now})
        if not counts:
            return Offer("not applicable", reason="there is one CPU core, and one thread on it")
        return Offer("offered", tuple(Level(str(n), f"torch.set_num_threads({n})") for n in counts))

    def apply(self, loop: Loop, level: str) -> None:
        """Set the count for this process; DataLoader workers have one thread each anyway."""
        self._before = torch.get_num_threads()
        torch.set_num_threads(int(level))

    def restore(self, loop: Loop) -> None:
        """Set the count found before."""
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None
