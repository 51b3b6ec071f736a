"""Treatment: the number of DataLoader worker processes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.system import process_use

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

SHM_FREE = 64 * 2**20
"""Bytes of /dev/shm that must be free before workers are tried: Docker's default of 64 MiB fills up and kills workers."""
MEMORY_PER_WORKER = 512 * 2**20
"""Bytes of available memory demanded per worker tried: an upper bound for what a forked worker usually copies."""


def planned(plan: Mapping[str, str], loader: DataLoader[Any]) -> int:
    """Workers that ``loader`` has under ``plan`` (slug -> level), which may leave it as its author made it."""
    return int(plan.get(DataloaderWorkers.slug, loader.num_workers))


class DataloaderWorkers(Treatment):
    """``DataLoader(num_workers=n)`` for the loaders the step fetches from, with a few counts that fit the machine."""

    slug = "dataloader_workers"
    title = "DataLoader workers"
    numerics = False
    interacts = ("cpu_threads",)
    cores = "loading"
    phases = ("data",)

    def offer(self, loop: Loop) -> Offer:
        """Offered where the step fetches from a DataLoader: none, one, two, half the cores and all cores."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        cores = max(1, math.floor(loop.cores))
        counts = {0, 1, 2, cores // 2, cores} if cores > 1 else {0, 1}
        now = {handle.loader.num_workers for handle in loop.loaders}
        counts = {n for n in counts if n <= max(cores, 1)} - (now if len(now) == 1 else set())
        limit, why = self._room()
        fitting = sorted(n for n in counts if n <= limit)
        if not fitting:
            return Offer("untestable here", reason=why)
        return Offer("offered", tuple(Level(str(n), f"num_workers={n}") for n in fitting))

    @staticmethod
    def _room() -> tuple[int, str]:
        """How many workers memory and /dev/shm allow, and what is short."""
        try:
            shm = os.statvfs("/dev/shm")
            if shm.f_bavail * shm.f_frsize < SHM_FREE:
                return 0, "/dev/shm has less than 64 MiB free: workers hand their batches over through it"
        except OSError:
            pass
        available = process_use.free_memory()
        if available is None:
            return 64, ""
        return available // MEMORY_PER_WORKER, "less than 512 MiB of memory is available for a worker"

    def apply(self, loop: Loop, level: str) -> None:
        """Feed the loop from twins of its loaders with that many workers."""
        for handle in loop.loaders:
            handle.feed(int(level))

    def restore(self, loop: Loop) -> None:
        """Feed the loop as the user set it."""
        for handle in loop.loaders:
            handle.feed(None)
