"""The DataLoaders of the loop: caught at iteration, and fed from elsewhere while the experiment runs.

The user's iterator object stays the one their loop holds; only where its ``__next__`` takes batches from changes. What
it is fed from is a *twin*: a shallow copy of the user's loader (same dataset, sampler, collate function) whose epochs
never end, so that the loop is held inside its epoch and no end-of-epoch code fires.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import itertools
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import dataloader as torch_dataloader

from perfdoc.inject.feed.epoch import Epoch

MOST_ALIVE = 16
"""Worker processes of all sources of a loader that are kept alive at once, or three times the user's own."""
WORKER_TIMEOUT = 120.0
"""Minimum time in seconds after which a worker of a twin that delivers nothing is given up. Users' own time-outs are kept."""
PATIENCE = 4.0
"""Times longer than the slowest batch so far that a worker of a twin may take: the first batch of some data sets takes minutes,
and every worker makes one."""
AMPLE = 5.0
"""Times faster than the loop asks for them that batches must be made for their stock to be full at all times, also for
treatments that make the step a few times faster."""

_BaseIter: Any = torch_dataloader._BaseDataLoaderIter
_MultiIter: Any = torch_dataloader._MultiProcessingDataLoaderIter
original_next: Callable[[Any], Any] = _BaseIter.__next__


class Endless:
    """A sampler that begins anew when it is exhausted. Ends only where the sampler it repeats yields nothing."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            empty = True
            for item in self.sampler:
                empty = False
                yield item
            if empty:
                return

    def __len__(self) -> int:
        return len(self.sampler)


class Grown:
    """A batch sampler whose batches are ``factor`` times as large as those of the endless one it draws from."""

    def __init__(self, sampler: Any, factor: int) -> None:
        self.sampler = sampler
        self.factor = factor

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.sampler)
        while joined := [list(batch) for batch in itertools.islice(batches, self.factor)]:
            yield [index for batch in joined for index in batch]

    def __len__(self) -> int:
        return max(1, len(self.sampler) // self.factor)


class Short:
    """A sampler cut off after ``count`` items."""

    def __init__(self, sampler: Any, count: int) -> None:
        self.sampler = sampler
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.sampler), self.count)

    def __len__(self) -> int:
        return self.count


def twin(
    loader: Any, workers: int | None, wrap: Callable[[Any], Any], persistent: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """A shallow copy of ``loader`` with ``workers`` workers (None: as the user has it) and its sampler wrapped.

    ``changes``: further attributes of the copy (``pin_memory``, ``in_order``...). The copy goes around
    ``DataLoader.__init__``, so subclasses that iterate in their constructor do not start doing so again. The user's loader is
    not touched.
    """
    clone = copy.copy(loader)
    settings = clone.__dict__
    if workers is not None and workers != loader.num_workers:
        settings["num_workers"] = workers
        settings["prefetch_factor"] = (loader.prefetch_factor or 2) if workers else None
        settings["timeout"] = loader.timeout if workers else 0
        if not workers:
            settings["_DataLoader__multiprocessing_context"] = None
    if settings["num_workers"] and not settings["timeout"]:
        settings["timeout"] = max(WORKER_TIMEOUT, PATIENCE * float(loader.__dict__.get("_perfdoc_slowest", 0.0)))
    settings["persistent_workers"] = persistent and settings["num_workers"] > 0
    settings["_iterator"] = None
    settings["_perfdoc_twin"] = True
    settings.update(changes or {})
    if not isinstance(loader.dataset, IterableDataset):
        if settings.get("batch_sampler") is not None:
            settings["batch_sampler"] = wrap(settings["batch_sampler"])
        else:
            settings["sampler"] = wrap(settings["sampler"])
    return clone


def start(clone: Any, how: Callable[[Any], Any] = DataLoader._get_iterator) -> Any:
    """A fresh iterator of a twin, without the user's subclass taking part."""
    return how(clone)


def placeholder(loader: Any) -> Any:
    """What the user's loop iterates while ``loader`` is held: an iterator of theirs without workers, which it does not need."""
    iterator = start(twin(loader, 0, lambda sampler: sampler), DataLoader._get_iterator)
    iterator._perfdoc_loader = loader
    return iterator


def stop(iterator: Any) -> None:
    """End an iterator's workers now instead of at garbage collection."""
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


def is_twin(loader: Any) -> bool:
    """Whether ``loader`` was made here and is none of the user's."""
    return bool(loader.__dict__.get("_perfdoc_twin"))


def likeness(loader: Any) -> tuple[Any, ...]:
    """What a loader made anew every epoch has in common with the one before."""
    try:
        length = len(loader)
    except (TypeError, NotImplementedError):
        length = None
    site = loader.__dict__.get("_perfdoc_made_at")
    return site, type(loader.dataset), type(loader.sampler), loader.batch_size, loader.num_workers, length


class Source:
    """An endless supply of batches from a twin. Started at first use, then kept.

    While another one serves the loop it rests: its workers stand still (SIGSTOP), or they would fill up their stock, for
    seconds where batches are slow to make, on the cores of the blocks that are measured then.
    """

    _resting: weakref.WeakSet[Source] = weakref.WeakSet()
    _registered = False
    pausing = True
    """Whether workers may be paused at all: one that holds a lock of the data set's would stop the others too."""

    def __init__(
        self, loader: Any, workers: int | None, grown: int = 1, wraps: Sequence[Callable[[Any], Any]] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        changes = dict(settings or {})
        if wraps:
            changes["dataset"] = functools.reduce(lambda dataset, wrap: wrap(dataset), wraps, loader.dataset)
        if grown == 1:
            self.twin = twin(loader, workers, Endless, changes=changes)
        else:
            self.twin = twin(loader, workers, lambda sampler: Grown(Endless(sampler), grown), changes=changes)
        self.iterator: Any = None
        self.fresh = True
        self._known = False
        self._ample: bool | None = None

    def rest(self) -> None:
        """Stop the workers until :meth:`wake`."""
        if not Source.pausing or self.iterator is None or self in self._resting or not self._signal(signal.SIGSTOP):
            return
        self._resting.add(self)
        if not Source._registered:
            # Before multiprocessing's own, which waits for workers to end: those that stand still would not.
            Source._registered = True
            atexit.register(_wake_all)

    def wake(self) -> None:
        """Have the workers go on."""
        if self in self._resting:
            self._resting.discard(self)
            self._signal(signal.SIGCONT)

    @classmethod
    def any_paused(cls) -> bool:
        """Whether workers of any source stand still."""
        return bool(cls._resting)

    @classmethod
    def never_pause(cls) -> int:
        """Wake all workers that are paused, and pause none from now on; how many sources had been paused."""
        cls.pausing = False
        paused = list(cls._resting)
        _wake_all()
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
                return original_next(self.iterator)
            except StopIteration:
                # An IterableDataset came to its end: begin its next pass.
                stop(self.iterator)
                self.iterator = None
        raise StopIteration

    def drain(self, demand: float = 0.0) -> int:
        """Throw away what was prefetched before now; how many batches that were.

        ``demand``: seconds after which the loop asks for the next batch. A stock is no gift of the block before where batches
        are made many times faster than that: it is always full then, and is kept. Workers that fill it up anew would take
        the cores from the block that is measured.
        """
        if (self.iterator is None and not self._known) or self.fresh:
            # Also where the block that begins now starts its workers: what they make ahead in it is no stock of the next one.
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
        self.wake()
        if self.iterator is not None:
            stop(self.iterator)
            self.iterator = None


def _wake_all() -> None:
    for source in list(Source._resting):
        source.wake()


def shallow(batch: Any) -> Any:
    """A copy of the containers of a batch, not of its tensors: scripts take entries out of batches (``pop('labels')``)."""
    if isinstance(batch, dict):
        try:
            return type(batch)({key: shallow(value) for key, value in batch.items()})
        except TypeError:
            return copy.copy(batch)
    if isinstance(batch, list):
        return [shallow(value) for value in batch]
    if type(batch) is tuple:
        return tuple(shallow(value) for value in batch)
    if hasattr(batch, "data") and isinstance(getattr(batch, "data", None), dict):
        return copy.copy(batch)
    return batch


class Handle:
    """One DataLoader of the user's loop (see ``perfdoc.core.treatment.LoaderHandle``)."""

    def __init__(self, key: int, loader: Any, site: str) -> None:
        self.key = key
        self.site = site
        self.held = False
        self._loader = weakref.ref(loader)
        self._kept: Any = None
        self._iterator: Callable[[], Any] = lambda: None
        self._likeness = likeness(loader)
        self._sources: dict[tuple[int | None, int, tuple[str, ...]], Source] = {}
        self._serving: Any = None
        self._wraps: dict[str, Callable[[Any], Any]] = {}
        self._settings: dict[str, Mapping[str, Any]] = {}
        self._other: tuple[str, Callable[[], Any]] | None = None
        self._workers: int | None = None
        self._grown = 1
        self._replayed: list[Any] | None = None
        self._place = -1
        self.batches_a_step = 1
        self.epoch = Epoch()
        self._cached = False
        self._batch: Any = None
        self._has_batch = False

    @property
    def loader(self) -> Any:
        """The user's loader. It is kept alive only once it is held."""
        return self._kept if self._kept is not None else self._loader()

    def iterated(self, loader: Any, iterator: Any) -> None:
        """The loop fetches through ``iterator`` of ``loader``."""
        if self._iterator() is not iterator:
            self._iterator = weakref.ref(iterator)
            if self.held:
                self.epoch.begin()
            else:
                self._loader = weakref.ref(loader)

    def ended(self, iterator: Any) -> None:
        """An iterator of the loop's came to its end."""
        if not self.held:
            self.epoch.ended(int(getattr(iterator, "_num_yielded", 0) or 0) or None)

    def took(self, seconds: float) -> None:
        """A batch of the user's own loader took so many seconds."""
        loader = self._loader()
        if loader is not None and seconds > loader.__dict__.get("_perfdoc_slowest", 0.0):
            loader.__dict__["_perfdoc_slowest"] = seconds

    def succeeded_by(self, loader: Any) -> bool:
        """Whether ``loader`` takes this one's place: made at the same place, alike, and this one is used no more."""
        gone = self._iterator() is None if self.held else self._loader() is None
        return gone and self._likeness == likeness(loader)

    @property
    def batches_an_epoch(self) -> int | None:
        """``len(loader)``, or None where it has none."""
        try:
            return len(self.loader)
        except (TypeError, NotImplementedError):
            return None

    @property
    def workers(self) -> int:
        """Worker processes of the current source; 0 while a cached batch is served."""
        if self._cached:
            return 0
        return int(self.loader.num_workers if self._workers is None else self._workers)

    @property
    def arrangement(self) -> tuple[Any, ...]:
        """What the next batches come from: alike where nothing about it was changed in between."""
        other = None if self._other is None else self._other[0]
        return self._cached, other, self._workers, self._grown, self._names()

    def _names(self) -> tuple[str, ...]:
        return tuple(sorted([*self._wraps, *self._settings]))

    def hold(self) -> None:
        """From now on the loop's batches come from endless twins: its epoch does not end any more."""
        self.held = True
        self._kept = self._loader()
        iterator = self._iterator()
        self.epoch.hold(self._kept, iterator)
        if isinstance(iterator, _MultiIter):
            stop(iterator)

    def fetch(self) -> Any:
        """The loop's next batch, once it is held."""
        if self._replayed or (self._cached and self._has_batch):
            self._serve(None)
        if self._replayed:
            batch = self._replayed[self._place % len(self._replayed)]
            self._place += 1
            return shallow(batch)
        if self._cached and self._has_batch:
            return shallow(self._batch)
        batch = self._source().next()
        if self._cached:
            self._batch, self._has_batch = shallow(batch), True
        return batch

    def _source(self) -> Source:
        """The source that serves now; the one before it rests from here on."""
        source = self._chosen()
        self._serve(source)
        return source

    def _serve(self, source: Any) -> None:
        if source is self._serving:
            return
        if isinstance(self._serving, Source):
            self._serving.rest()
        self._serving = source
        if isinstance(source, Source):
            source.wake()

    def _chosen(self) -> Source:
        key = None if self._workers == self.loader.num_workers else self._workers
        if self._other is not None:
            name, make = self._other
            elsewhere = (None, 1, (name,))
            if elsewhere not in self._sources:
                self._sources[elsewhere] = make()
            return self._sources[elsewhere]
        names = self._names()
        place = (key, self._grown, names)
        if place not in self._sources:
            wraps = [self._wraps[name] for name in sorted(self._wraps)]
            settings = {k: v for name in sorted(self._settings) for k, v in self._settings[name].items()}
            if not (self.loader.num_workers if key is None else key):
                settings.pop("prefetch_factor", None)  # has no meaning without workers
            self._sources[place] = Source(self.loader, key, self._grown, wraps, settings)
        self._end_idle(place)
        return self._sources[place]

    def _end_idle(self, place: Any) -> None:
        """Not all arms can keep their workers: those that served longest ago are ended, and started again when needed."""
        self._sources[place] = self._sources.pop(place)  # the last one is the one in use
        alive = sum(getattr(source, "processes", 0) for source in self._sources.values())
        for other in list(self._sources):
            if alive <= max(MOST_ALIVE, 3 * int(self.loader.num_workers)) or other == place:
                return
            alive -= getattr(self._sources[other], "processes", 0)
            self._sources[other].close()

    @property
    def batches_can_grow(self) -> bool:
        """Whether larger batches can be made: the loader forms batches itself, from a data set with an index."""
        loader = self.loader
        return getattr(loader, "batch_sampler", None) is not None and not isinstance(loader.dataset, IterableDataset)

    def feed_grown(self, factor: int) -> None:
        """From the next fetch on, serve batches ``factor`` times as large as the user's; 1: as the user set it."""
        self._grown = factor

    def feed(self, workers: int | None) -> None:
        """From the next fetch on, serve batches from a twin with ``workers`` workers; None: as the user set it."""
        self._workers = workers

    def feed_dataset(self, name: str, wrap: Callable[[Any], Any] | None) -> None:
        """From the next fetch on, make samples with what ``wrap`` makes of the user's data set, under this name; None: without.

        The same name always means the same wrapping: workers that were started for it are kept.
        """
        if wrap is None:
            self._wraps.pop(name, None)
        else:
            self._wraps[name] = wrap

    def feed_settings(self, name: str, settings: Mapping[str, Any] | None) -> None:
        """From the next fetch on, serve batches from a twin with these attributes, under this name; None: without them."""
        if settings is None:
            self._settings.pop(name, None)
        else:
            self._settings[name] = settings

    def feed_from(self, name: str, make: Callable[[], Any] | None) -> None:
        """From the next fetch on, serve batches of the source that ``make`` makes at first use; None: of the loader.

        A source has ``next()``, ``drain()`` (throws prefetched batches away, says how many) and ``close()``.
        """
        self._other = None if make is None else (name, make)

    def feed_cached(self, on: bool) -> None:
        """From the next fetch on, serve one cached batch (on), or real batches (off)."""
        self._cached = on
        if not on:
            self._batch, self._has_batch = None, False

    def replay(self, batches: Sequence[Any] | None) -> None:
        """From the next fetch on, serve these batches in a circle, the last one first; None: real batches."""
        self._replayed = None if batches is None else list(batches)
        self._place = -1

    def draw(self) -> Any:
        """Take a batch from the current source now, outside of the loop."""
        return self._source().next()

    def drain(self, step_seconds: float = 0.0) -> int:
        """Throw away what the current source prefetched earlier; the number of batches thrown away.

        With the duration of a step, sources that are never behind it keep their stock.
        """
        if self._cached:
            return 0
        source = self._source()
        return source.drain(step_seconds / max(1, self.batches_a_step)) if isinstance(source, Source) else source.drain()

    def short_epoch(self, workers: int, persistent: bool, batches: int) -> Callable[[], Any]:
        """Starts epochs of ``batches`` batches on a fresh twin, as ``iter(loader)`` would."""
        clone = twin(self.loader, workers, lambda sampler: Short(sampler, batches), persistent)
        return lambda: start(clone, DataLoader.__iter__)

    def close(self) -> None:
        """End all workers that were started for this loader."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._serving = None
        iterator = self._iterator()
        if isinstance(iterator, _MultiIter):
            stop(iterator)
