"""Probe: reading the data set's files, from the page cache and from where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from torch.utils.data import IterableDataset

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.samples.sample_watch import SampleWatch

FILES = 24
"""Files that are read, at most; each once cold and once warm."""
SECONDS = 3.0
HOW: How = "measured in isolation"


class Storage(Probe):
    """Seconds to read a whole file that a sample opens: after dropping it from the page cache, and again from the cache."""

    slug = "storage"
    of_loader = True
    provides = {"storage.cold": "s", "storage.warm": "s", "storage.size": "B"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Read files of samples that come up late in an epoch, which training has not read yet."""
        if not loop.loaders or isinstance(loop.loaders[0].loader.dataset, IterableDataset):
            return self._nothing("no DataLoader whose samples can be asked for one by one")
        paths = _paths(loop.loaders[0].loader.dataset)
        if not paths:
            return self._nothing("no file was seen being opened for a sample")
        if not hasattr(os, "posix_fadvise"):
            return self._nothing("this system cannot drop files from the page cache (posix_fadvise)")
        cold, warm, sizes, fetched = [], [], [], 0
        start = perf_counter()
        for path in paths:
            try:
                before = _fetched()
                cold.append(_read(path, drop=True))
                fetched += _fetched() - before
                warm.append(_read(path, drop=False))
                sizes.append(float(os.path.getsize(path)))
            except OSError as error:
                return self._nothing(f"{path}: {error.strerror}")
            if perf_counter() - start > SECONDS:
                break
        found: list[Measurement | Unavailable] = [
            Measurement("storage.warm", "s", tuple(warm), {}, HOW), Measurement("storage.size", "B", tuple(sizes), {}, HOW),
        ]
        if fetched < 0.5 * sum(sizes):
            return [*found, Unavailable("storage.cold", "the files stay in memory however they are dropped (tmpfs, overlay)")]
        return [*found, Measurement("storage.cold", "s", tuple(cold), {}, HOW)]

    def _nothing(self, why: str) -> list[Measurement | Unavailable]:
        return [Unavailable(metric, why) for metric in self.provides]


def _paths(dataset: Any) -> list[str]:
    """Files of samples from all over the data set, one each."""
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError):
        return []
    found: dict[str, None] = {}
    start = perf_counter()
    with SampleWatch(dataset) as watch:
        for place in range(0, length, max(1, length // FILES)):
            _, seen = watch.sample(place)
            found |= {source.path: None for source in seen.sources if source.path}
            if len(found) >= FILES or perf_counter() - start > SECONDS or (not found and place):
                break
    return list(found)


def _read(path: str, drop: bool) -> float:
    fd = os.open(path, os.O_RDONLY)
    try:
        if drop:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        start = perf_counter()
        while os.read(fd, 1 << 20):
            pass
        return perf_counter() - start
    finally:
        os.close(fd)


def _fetched() -> int:
    """Bytes that this process caused to be fetched from storage so far; 0 where the system does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return 0
