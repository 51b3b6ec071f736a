"""The DataLoaders of the loop: caught at iteration, and fed from elsewhere while the experiment runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from perfdoc.inject.feed.epoch import Epoch
from perfdoc.inject.feed.source import Source
from perfdoc.inject.feed.twin import MultiIter, Short, likeness, start, stop, twin
from perfdoc.inject.system.batches import shallow

MOST_ALIVE = 16
"""Maximum number of worker processes of all sources of a loader that are kept alive at once, or three times the user's own."""


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
        self._batch_multiplier = 1
        self._replayed: list[Any] | None = None
        self._changes: dict[str, Callable[[Any], Any]] = {}
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
                self.epoch.iterators += 1
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
    def pids(self) -> list[int]:
        """Process ids of the workers that serve now."""
        workers = getattr(getattr(self._serving, "iterator", None), "_workers", ())
        return [worker.pid for worker in workers if worker.pid]

    @property
    def idle_pids(self) -> list[int]:
        """Process ids of the workers that wait until their source serves again."""
        idle = [source for source in self._sources.values() if source is not self._serving]
        workers = [worker for source in idle for worker in getattr(getattr(source, "iterator", None), "_workers", ())]
        return [worker.pid for worker in workers if worker.pid]

    def close_idle(self) -> None:
        """End these workers; they are started again when their source serves."""
        for source in self._sources.values():
            if source is not self._serving:
                source.close()

    @property
    def served(self) -> int:
        """Batches that the source which serves now has given so far."""
        return int(getattr(self._serving, "served", 0))

    @property
    def source_key(self) -> tuple[Any, ...]:
        """What the next batches come from: alike where nothing about it was changed in between."""
        other = None if self._other is None else self._other[0]
        return self._cached, other, self._workers, self._batch_multiplier, self._names()

    def _names(self) -> tuple[str, ...]:
        return tuple(sorted([*self._wraps, *self._settings]))

    def hold(self) -> None:
        """From now on the loop's batches come from endless twins: its epoch does not end any more."""
        self.held = True
        self._kept = self._loader()
        iterator = self._iterator()
        self.epoch.hold(self._kept, iterator)
        if isinstance(iterator, MultiIter):
            stop(iterator)

    def fetch(self) -> Any:
        """The loop's next batch, once it is held."""
        if self._replayed or (self._cached and self._has_batch):
            self._serve(None)
        if self._replayed:
            batch = self._replayed[self._place % len(self._replayed)]
            self._place += 1
            batch = shallow(batch)
            for name in sorted(self._changes):
                batch = self._changes[name](batch)
            return batch
        if self._cached and self._has_batch:
            return shallow(self._batch)
        batch = self._source().next()
        if self._cached:
            self._batch, self._has_batch = shallow(batch), True
        return batch

    def _source(self) -> Source:
        """The source that serves now; the one before it is paused from here on."""
        source = self._chosen()
        self._serve(source)
        return source

    def _serve(self, source: Any) -> None:
        if source is self._serving:
            return
        if isinstance(self._serving, Source):
            self._serving.pause()
        self._serving = source
        if isinstance(source, Source):
            source.resume()

    def _chosen(self) -> Source:
        key = None if self._workers == self.loader.num_workers else self._workers
        if self._other is not None:
            name, make = self._other
            elsewhere = (None, 1, (name,))
            if elsewhere not in self._sources:
                self._sources[elsewhere] = make()
            return self._sources[elsewhere]
        names = self._names()
        place = (key, self._batch_multiplier, names)
        if place not in self._sources:
            wraps = [self._wraps[name] for name in sorted(self._wraps)]
            settings = {k: v for name in sorted(self._settings) for k, v in self._settings[name].items()}
            if not (self.loader.num_workers if key is None else key):
                settings.pop("prefetch_factor", None)  # has no meaning without workers
            self._sources[place] = Source(self.loader, key, self._batch_multiplier, wraps, settings)
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

    def feed_multiplied(self, factor: int) -> None:
        """From the next fetch on, serve batches ``factor`` times as large as the user's; 1: as the user set it."""
        self._batch_multiplier = factor

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

    def feed_replayed(self, name: str, change: Callable[[Any], Any] | None) -> None:
        """From the next fetch on, pass every batch that was drawn before the change through ``change``; None: without it."""
        if change is None:
            self._changes.pop(name, None)
        else:
            self._changes[name] = change

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
        if isinstance(iterator, MultiIter):
            stop(iterator)
