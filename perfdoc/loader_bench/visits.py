"""What was measured of each setting, and whether another visit fits the machine and the budget."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.inject.system import process_use
from perfdoc.loader_bench.setting import Setting

VISIT_SHARE = 0.2
"""Share of the budget that one visit may be expected to take: a setting that needs longer is not tried."""
MEMORY_A_WORKER = 512 * 2**20
"""Bytes taken for a worker before one was measured: an upper bound for what a forked worker usually copies."""
SHARE_OF_FREE = 0.8
"""Share of what is free that workers may take."""
HANDLES_A_WORKER = 6
"""File handles of the training process for a worker's queues, its pipe and its sentinel."""


Tell = Callable[[Measurement | Unavailable], None]
"""Called with every measurement as soon as it is taken."""


@dataclass
class Visits:
    """What was measured of one setting."""

    setting: Setting
    rates: list[tuple[int, float]] = field(default_factory=list)
    """(round, batches a second)."""
    starts: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Relative standard error of the rate of a visit, from the batches within it."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds a batch."""
    seconds: list[float] = field(default_factory=list)
    """How long whole visits took."""
    memory: int | None = None
    failed: str = ""

    @property
    def rate(self) -> float:
        """Batches a second, the median of the visits; 0 before the first."""
        return statistics.median(rate for _, rate in self.rates) if self.rates else 0.0


def no_room(setting: Setting, visits: Mapping[Setting, Visits], prefetch: int, batch_bytes: int, tensors: int) -> str:
    """Why so many workers would not fit this machine; empty where they do.

    ``prefetch``: batches that each worker prefetches; ``batch_bytes`` and ``tensors``: of one batch.
    """
    workers = setting.workers
    if not workers:
        return ""
    known = {s.workers: found.memory / s.workers for s, found in visits.items() if found.memory and s.workers}
    # What workers share with the training process counts the less, the more they are: the largest count tells most.
    each = known[max(known)] * 1.2 if known else MEMORY_A_WORKER
    free = process_use.free_memory()
    if free is not None and workers * each > SHARE_OF_FREE * free:
        said = "measured" if known else "taken before one is measured"
        return f"{workers} workers of {each / 2**20:.0f} MiB ({said}) do not fit the {free / 2**20:.0f} MiB of free memory"
    shm = process_use.shared_memory()
    if shm is not None and workers * prefetch * batch_bytes > SHARE_OF_FREE * shm[1]:
        return (
            f"{workers} workers x {prefetch} batches of {batch_bytes / 2**20:.3g} MiB do not fit the "
            f"{shm[1] / 2**20:.0f} MiB that are free in {process_use.SHM}"
        )
    handles = process_use.free_handles()
    needed = workers * (HANDLES_A_WORKER + prefetch * tensors)
    if handles is not None and needed > SHARE_OF_FREE * handles:
        return f"{workers} workers need about {needed} file handles, {handles} are free (ulimit -n)"
    return ""


def too_slow(setting: Setting, visits: Mapping[Setting, Visits], window: float, budget: float, left: float) -> str:
    """Why a visit would take too much of the budget, judged by the settings that were visited; empty where it would not.

    ``window``: seconds that it times; ``budget`` and what is ``left`` of it: in seconds.
    """
    found = visits[setting]
    if found.seconds:
        return "" if found.seconds[-1] < left else "no time is left"
    known = [other for other in visits.values() if other.rates]
    if not known:
        return ""
    best = max(other.rate for other in known)
    most = max(known, key=lambda other: other.setting.workers)
    starting = most.starts[-1] * max(1.0, setting.workers / max(1, most.setting.workers))
    expected = starting + max(window, 2 * setting.workers / best)
    if expected > max(VISIT_SHARE * budget, 2 * window) or expected > left + window:
        return f"a visit would take about {expected:.0f} s of a budget of {budget:.0f} s"
    return ""
