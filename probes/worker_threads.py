"""Treatment: threads that libraries start in workers."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import IterableDataset

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.core.user_code import is_users
from perfdoc.inject.feed.swapped_dataset import swapped
from perfdoc.inject.samples.out_of_turn import SampleFailed, called
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import native_threads
from perfdoc.inject.system.native_threads import Limit
from perfdoc.inject.system.random_state import RandomState

WATCHED = 0.3
"""Time in seconds for which samples are made to see how many threads are at work."""
AT_WORK = 1.3
"""Minimum number of threads at work for a library to be said to use several: below, they wait for one another."""
SPINNING = 0.02
"""Time in seconds for which the threads of the last step may still spin before they sleep."""


class _OneThread:
    """No threads of a library's own. In the training process they are put back after every sample."""

    def __init__(self, opencv: bool, blas: bool) -> None:
        self._opencv, self._blas = opencv, blas
        self._before: list[tuple[Callable[[int], None], int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_before": None}

    def enter(self) -> None:
        """No threads beside the calling one."""
        self._before = []
        for limit in _limits(self._opencv, self._blas):
            self._before.append((limit.put, limit.get()))
            limit.put(limit.one)

    def leave(self) -> None:
        """As many as before."""
        for put, count in self._before or ():
            put(count)
        self._before = None


def _limits(opencv: bool, blas: bool) -> list[Limit]:
    found = native_threads.opencv() if opencv else None
    return [*([found] if found else []), *(native_threads.blas() if blas else [])]


def _opencv_used() -> bool:
    """Whether OpenCV is the user's, or albumentations', and not only imported to compare decoders."""
    if "cv2" not in sys.modules:
        return False
    users = (m for m in list(sys.modules.values()) if m is not None and is_users(getattr(m, "__file__", None) or "<"))
    return "albumentations" in sys.modules or any(getattr(m, "cv2", None) is sys.modules["cv2"] for m in users)


def _threads_at_work(loader: Any) -> float:
    """How many threads make a sample, where torch has one, as in workers. Raises SampleFailed where none can be made."""
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not len(dataset):
        return 1.0
    kept, threads = RandomState(loader), torch.get_num_threads()
    places = itertools.cycle(range(0, len(dataset), max(1, len(dataset) // 16)))
    try:
        torch.set_num_threads(1)
        with Unchanged(dataset):
            called(dataset.__getitem__, next(places))
            time.sleep(SPINNING)
            return native_threads.busy(lambda: called(dataset.__getitem__, next(places)), WATCHED)
    finally:
        torch.set_num_threads(threads)
        kept.restore()


class WorkerThreads(Treatment):
    """OpenCV and BLAS without threads of their own where samples are made. torch gives its workers one thread by itself."""

    slug = "worker_threads"
    contradicts = ("dataloader_workers=0",)
    title = "libraries' threads where samples are made"
    numerics = False
    phases = ("data", "forward", "backward")

    def __init__(self) -> None:
        self._opencv = self._blas = False

    def offer(self, loop: Loop) -> Offer:
        """Offered where OpenCV is in use with more than one thread, or samples are seen to be made by several of BLAS'."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        loader = loop.loaders[0].loader
        opencv, blas = _opencv_used(), bool(native_threads.blas())
        if not opencv and not blas:
            return Offer("not applicable", reason="neither OpenCV nor a BLAS library with threads of its own is in use")
        if not loader.num_workers:
            return Offer("not applicable", reason="samples are made in the training process")
        self._opencv = opencv and any(limit.get() > 1 for limit in _limits(True, False))
        self._blas = False
        if any(limit.get() > 1 for limit in _limits(False, True)):
            try:
                self._blas = self._more_than_one(loader)
            except SampleFailed as error:
                return Offer("not applicable", reason=f"a sample cannot be made here: {error}")
        if self._opencv or self._blas:
            return Offer("offered", (Level("one", f"{self._written()} in the workers"),))
        return Offer("already on", reason="OpenCV has one thread" if opencv else "one thread makes a sample")

    def _more_than_one(self, loader: Any) -> bool:
        """Whether BLAS has several threads at work in a sample; OpenCV's are out of the way meanwhile."""
        others = _OneThread(True, False)
        others.enter()
        try:
            return _threads_at_work(loader) >= AT_WORK
        finally:
            others.leave()

    def _written(self) -> str:
        written = ["cv2.setNumThreads(0)"] * self._opencv + ['threadpool_limits(1, "blas")'] * self._blas
        return " and ".join(written)

    def apply(self, loop: Loop, level: str) -> None:
        """Make samples without these threads."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, lambda dataset: swapped(dataset, _OneThread(self._opencv, self._blas)))

    def restore(self, loop: Loop) -> None:
        """Make samples as the user does."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)
