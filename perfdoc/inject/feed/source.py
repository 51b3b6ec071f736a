"""Where batches come from while the loop is held: endless twins, whose workers are paused while another one serves."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from perfdoc.inject.feed.twin import Endless, Multiplied, original_next, start, stop, twin

AMPLE = 5.0
"""Minimum number of times faster than the loop asks for them that batches must be made for their stock to be full at all times,
also for treatments that make the step a few times faster."""


class Source:
    """An endless supply of batches from a twin. Started at first use, then kept.

    While another one serves the loop its workers are paused (SIGSTOP). Otherwise they would go on filling their queues, for
    seconds where batches are slow to make, on the cores that another block is measured on.
    """

    _paused: weakref.WeakSet[Source] = weakref.WeakSet()
    _registered = False
    pausing = True
    """Whether workers may be paused at all: one that holds a lock of the data set's would stop the others too."""

    def __init__(
        self, loader: Any, workers: int | None, batch_multiplier: int = 1, wraps: Sequence[Callable[[Any], Any]] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        changes = dict(settings or {})
        if wraps:
            changes["dataset"] = functools.reduce(lambda dataset, wrap: wrap(dataset), wraps, loader.dataset)
        if batch_multiplier == 1:
            self.twin = twin(loader, workers, Endless, changes=changes)
        else:
            self.twin = twin(loader, workers, lambda sampler: Multiplied(Endless(sampler), batch_multiplier), changes=changes)
        self.iterator: Any = None
        self.fresh = True
        self.served = 0
        """Batches given so far, those that were thrown away included."""
        self._known = False
        self._ample: bool | None = None

    def pause(self) -> None:
        """Stop the workers until :meth:`resume`."""
        if not Source.pausing or self.iterator is None or self in self._paused or not self._signal(signal.SIGSTOP):
            return
        self._paused.add(self)
        if not Source._registered:
            # Before multiprocessing's own, which waits for workers to end: those that stand still would not.
            Source._registered = True
            atexit.register(_resume_all)

    def resume(self) -> None:
        """Have the workers go on."""
        if self in self._paused:
            self._paused.discard(self)
            self._signal(signal.SIGCONT)

    @classmethod
    def any_paused(cls) -> bool:
        """Whether workers of any source stand still."""
        return bool(cls._paused)

    @classmethod
    def never_pause(cls) -> int:
        """Let all workers that are paused go on, and pause none from now on; how many sources had been paused."""
        cls.pausing = False
        paused = list(cls._paused)
        _resume_all()
        return len(paused)

    def _signal(self, number: int) -> bool:
        """Send a signal to all workers that live; whether there are any."""
        workers = [worker for worker in getattr(self.iterator, "_workers", ()) if worker.pid and worker.is_alive()]
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)
        return bool(workers)

    @property
    def processes(self) -> int:
        """Worker processes that it has now."""
        return 0 if self.iterator is None else int(self.twin.num_workers)

    def next(self) -> Any:
        """The next batch. Raises what the user's dataset raises; StopIteration only where there is no data at all."""
        for _ in range(2):
            if self.iterator is None:
                self.iterator = start(self.twin)
                # Workers that are started for the first time have a long warm-up; later ones are drained like kept ones.
                self.fresh, self._known = not self._known, True
            try:
                batch = original_next(self.iterator)
                self.served += 1
                return batch
            except StopIteration:
                # An IterableDataset came to its end: begin its next pass.
                stop(self.iterator)
                self.iterator = None
        raise StopIteration

    def drain(self, demand: float = 0.0) -> int:
        """Throw away what was prefetched before now; how many batches that were.

        ``demand``: seconds after which the loop asks for the next batch. Where workers are so much faster than that that their
        queue is always full, it is kept: it says nothing about the block before, and workers that fill it up anew would take
        the cores from the block that is measured.
        """
        if (self.iterator is None and not self._known) or self.fresh:
            # Also where the block that begins now starts its workers: what they make ahead is thrown away before the next one.
            self.fresh, self._known = False, True
            return 0
        count = int(self.twin.num_workers * (self.twin.prefetch_factor or 0))
        if not count or (self._ample and self.iterator is not None):
            return 0
        begin = perf_counter()
        for _ in range(count):
            self.next()
        if self._ample is not None or not demand:
            return count
        longest = count * demand / AMPLE
        self._ample = perf_counter() - begin < longest and self._made(count, longest)
        return 2 * count if self._ample else count

    def _made(self, count: int, longest: float) -> bool:
        """Whether ``count`` new batches are made within ``longest`` seconds; if so, the stock is full again afterwards."""
        begin = perf_counter()
        for _ in range(count):
            self.next()
            if perf_counter() - begin > longest:
                return False
        time.sleep(perf_counter() - begin)
        return True

    def close(self) -> None:
        """End the workers."""
        self.resume()
        if self.iterator is not None:
            stop(self.iterator)
            self.iterator = None


def _resume_all() -> None:
    for source in list(Source._paused):
        source.resume()
