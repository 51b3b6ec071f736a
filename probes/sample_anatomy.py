"""Probe: where the time of a sample goes, inside the user's own ``__getitem__``."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.feed import twin
from perfdoc.inject.samples.sample_watch import Sample, SampleWatch
from perfdoc.inject.system.batches import shallow, tensors_in

SECONDS = 2.0
"""Time given to watching samples."""
FEWEST, MOST = 8, 256
"""Samples watched."""
SLOW_SAMPLE = 20.0
"""Seconds after which watching ends, however few samples were seen."""
SLOWEST = 5
"""Samples that are named because they took longest."""
HOW: How = "measured in isolation"
AGAIN = 3
"""Times that each of those is made again: what is slow by itself is slow every time."""
SENT = 8
"""Batches that are sent through a worker to see what that takes."""


class SampleAnatomy(Probe):
    """Seconds a sample by part: read, decode, each transform by name, conversion, Python; collate and transfer a batch.

    Samples are made in the training process with one thread, as a worker makes them, files in the page cache.
    """

    slug = "sample_anatomy"
    of_loader = True
    provides = {
        "sample.time": "s", "sample.part": "s", "sample.slowest": "s", "sample.collate": "s", "sample.transfer": "s",
        "sample.bytes": "B", "sample.copied": "s", "sample.decoded_pixels": "count", "sample.used_pixels": "count",
    }

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Watch some dozen samples of the loop's first loader, then collate and send a batch of them."""
        why = ""
        if not loop.loaders:
            why = "no DataLoader in the step"
        elif isinstance(loop.loaders[0].loader.dataset, IterableDataset):
            why = "an IterableDataset has no samples that can be asked for one by one"
        elif loop.loaders[0].loader.batch_sampler is None:
            why = "the data set delivers whole batches"
        if why:
            return [Unavailable(metric, why) for metric in self.provides]
        loader = loop.loaders[0].loader
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker
        try:
            size = loader.batch_size or len(next(iter(loader.batch_sampler)))
            values, seen, used = _watch(loader, size)
            found = _of_samples(seen, used)
            samples = [values[place % len(values)] for place in range(size)]
            try:
                return [*found, *_of_batches(loader, samples)]
            except Exception as error:  # a collate function that wants other samples than these: theirs were told above
                why = f"{type(error).__name__}: {error}"
                return [*found, *(Unavailable(m, why) for m in ("sample.collate", "sample.transfer", "sample.bytes"))]
        finally:
            torch.set_num_threads(threads)


def _indices(loader: Any) -> Iterator[Any]:
    """The order in which the loader would ask for samples, again and again."""
    for batch in twin.Endless(loader.batch_sampler):
        yield from batch


def _watch(loader: Any, wanted: int) -> tuple[list[Any], list[Sample], list[int]]:
    """``wanted`` samples at most, what was seen of all that were made, and the pixels of each."""
    values: list[Any] = []
    seen: list[Sample] = []
    used: list[int] = []
    start = perf_counter()
    with SampleWatch(loader.dataset) as watch:
        for index in itertools.islice(_indices(loader), _count(loader.dataset)):
            loader.dataset[index]  # once untimed: its file is in the page cache then, as storage is told of by itself
            value, sample = watch.sample(index)
            if len(values) < wanted:
                values.append(value)
            used.append(pixels(value))
            seen.append(sample)
            elapsed = perf_counter() - start
            if (elapsed > SECONDS and len(seen) >= FEWEST) or elapsed > SLOW_SAMPLE:
                break
        # A stall of the machine makes any sample slow once; one that is slow by itself is slow again. Whoever moves up among
        # the slowest when a stalled one has been cleared is made again too.
        made_again: set[int] = set()
        while perf_counter() - start < SLOW_SAMPLE:
            slowest = sorted(range(len(seen)), key=lambda place: -seen[place].seconds)[:SLOWEST]
            place = next((place for place in slowest if place not in made_again), None)
            if place is None:
                break
            made_again.add(place)
            for _ in range(AGAIN):
                _, again = watch.sample(seen[place].index)
                seen[place] = min(seen[place], again, key=lambda sample: sample.seconds)
    return values, seen, used


def pixels(value: Any) -> int:
    """Pixels of the largest picture-like tensor or array of a sample; 0 where there is none."""
    sizes = [leaf.shape for leaf in pytree.tree_leaves(value) if hasattr(leaf, "shape") and len(leaf.shape) == 3]
    areas = [math.prod(shape[-2:]) if shape[0] in (1, 3, 4) else math.prod(shape[:2]) for shape in sizes]
    return int(max(areas, default=0))


def _count(dataset: Any) -> int:
    """Samples to watch: none twice."""
    try:
        return max(1, min(MOST, len(dataset)))
    except (TypeError, NotImplementedError):
        return MOST


def _of_samples(seen: list[Sample], areas: list[int]) -> list[Measurement | Unavailable]:
    found: list[Measurement | Unavailable] = [Measurement("sample.time", "s", tuple(s.seconds for s in seen), {}, HOW)]
    keys = list(dict.fromkeys(key for s in seen for key in s.parts))
    for part, name in keys:
        seconds = tuple(s.parts.get((part, name), 0.0) for s in seen)
        found.append(Measurement("sample.part", "s", seconds, {"part": part, "name": name}, HOW))
    for slow in sorted(seen, key=lambda s: -s.seconds)[:SLOWEST]:
        path = next((source.path for source in slow.sources if source.path), "")
        conditions = {"index": str(slow.index), "path": path or ""}
        found.append(Measurement("sample.slowest", "s", (slow.seconds,), conditions, HOW))
    sites = list(dict.fromkeys(site for s in seen for site in s.copied))
    for site in sites:
        seconds = tuple(s.copied.get(site, 0.0) for s in seen)
        found.append(Measurement("sample.copied", "s", seconds, {"site": site}, HOW))
    if not sites:
        found.append(Unavailable("sample.copied", "no array was copied by torch.tensor"))
    decoded = tuple(float(max(s.decoded)) for s in seen if s.decoded)
    used = tuple(float(area) for area in areas if area)
    for metric, counts in (("sample.decoded_pixels", decoded), ("sample.used_pixels", used)):
        found.append(Measurement(metric, "count", counts, {}, HOW) if decoded and counts
                     else Unavailable(metric, "no picture was seen being decoded"))
    return found


def _of_batches(loader: Any, samples: list[Any]) -> list[Measurement | Unavailable]:
    """What collating a batch takes, and what sending it from a worker to the training process takes."""
    found: list[Measurement | Unavailable] = []
    seconds = []
    batch = None
    for _ in range(4):
        given = [shallow(sample) for sample in samples]  # collate functions take entries out of samples
        start = perf_counter()
        batch = loader.collate_fn(given)
        seconds.append(perf_counter() - start)
    del seconds[0]
    found.append(Measurement("sample.collate", "s", tuple(seconds), {"batch_size": len(samples)}, HOW))
    tensors = tensors_in(batch)
    size = sum(t.numel() * t.element_size() for t in tensors) / len(samples)
    found.append(Measurement("sample.bytes", "B", (float(size),), {"tensors": len(tensors)}, HOW) if tensors
                 else Unavailable("sample.bytes", "no tensor was found in a batch"))
    if not loader.num_workers:
        return [*found, Unavailable("sample.transfer", "no workers: nothing is sent")]
    try:
        found.append(Measurement("sample.transfer", "s", _sent(loader, batch), {"batch_size": len(samples)}, HOW))
    except Exception as error:  # batches that cannot be pickled, a machine that allows no further process
        found.append(Unavailable("sample.transfer", f"{type(error).__name__}: {error}"))
    return found


class _Same(IterableDataset):  # type: ignore[misc]
    """One batch again and again. Its tensors lie in shared memory after the first time, where a worker's collate puts them."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.batch


def _sent(loader: Any, batch: Any) -> tuple[float, ...]:
    """Seconds a batch through one worker that has nothing else to do, after the first ones."""
    sender = DataLoader(_Same(batch), batch_size=None, num_workers=1, timeout=30,
                        multiprocessing_context=loader.multiprocessing_context)
    sender.__dict__["_perfdoc_twin"] = True
    iterator = twin.start(sender)
    try:
        for _ in range(4):
            twin.original_next(iterator)
        seconds = []
        for _ in range(SENT):
            start = perf_counter()
            twin.original_next(iterator)
            seconds.append(perf_counter() - start)
        return tuple(seconds)
    finally:
        with contextlib.suppress(Exception):
            twin.stop(iterator)
