"""Probe: chunks of HDF5 and zarr files that are unpacked for one sample, and files that are opened for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from torch.utils.data import IterableDataset

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.feed import twin
from perfdoc.inject.samples.chunk_watch import ChunkWatch, Opening, Read
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import process_use
from perfdoc.inject.system.random_state import RandomState

SAMPLES = 32
"""Maximum number of samples that are made."""
SECONDS = 1.5
"""Maximum time in seconds for making them."""
MOST_ARRAYS = 3
"""Maximum number of arrays that are told of: those that take longest."""
SHARE_OF_FREE = 0.25
"""Maximum share of the free memory that an array may take, unpacked, to be read into it once."""
HOW: How = "measured in isolation"


class ChunkedStorage(Probe):
    """By array: bytes of the chunks that a sample touches, bytes that it asks for, seconds; and seconds for opening files.

    Samples are made in the training process, in the order of the loader's sampler.
    """

    slug = "chunked_storage"
    of_loader = True
    provides = {"chunks.unpacked": "B", "chunks.used": "B", "chunks.time": "s", "chunks.opening": "s"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Make some samples and note what they read."""
        why = _why_not(loop)
        seen = [] if why else _watched(loop.loaders[0].loader)
        found: list[Measurement | Unavailable] = [*_of_reads([reads for reads, _ in seen]), *_of_openings([o for _, o in seen])]
        told = {entry.metric for entry in found}
        return found + [Unavailable(m, why or "no sample read a chunked array or opened a file") for m in self.provides
                        if m not in told]


def _why_not(loop: Loop) -> str:
    if not loop.loaders or isinstance(loop.loaders[0].loader.dataset, IterableDataset):
        return "no DataLoader whose samples can be asked for one by one"
    if loop.loaders[0].loader.batch_sampler is None:
        return "the data set delivers whole batches"
    return "" if ChunkWatch.libraries() else "neither h5py nor zarr is imported"


def _watched(loader: Any) -> list[tuple[list[Read], list[Opening]]]:
    """What each of some samples read and opened."""
    dataset, seen, kept = loader.dataset, [], RandomState(loader)
    order = itertools.chain.from_iterable(twin.Endless(loader.batch_sampler))
    try:
        with Unchanged(dataset), ChunkWatch() as watch:
            dataset[next(order)]  # what is opened at first use is no cost of every sample
            watch.take()
            start = perf_counter()
            for index in itertools.islice(order, SAMPLES):
                dataset[index]
                seen.append(watch.take())
                if perf_counter() - start > SECONDS:
                    break
    finally:
        kept.restore()
    return seen


def _of_reads(samples: list[list[Read]]) -> list[Measurement]:
    arrays = {(read.site, read.name): read for reads in samples for read in reads}
    totals = {key: sum(r.seconds for reads in samples for r in reads if (r.site, r.name) == key) for key in arrays}
    found = []
    free = process_use.free_memory() or 0
    for site, name in sorted(arrays, key=lambda key: -totals[key])[:MOST_ARRAYS]:
        last = arrays[site, name]
        about: dict[str, str | int | float] = {
            "site": site, "array": name, "library": last.library, "chunk": str(last.chunk), "shape": str(last.shape),
            "selected": str(last.selected), "compression": last.compression, "total": last.total,
            "fits": int(0 < last.total <= SHARE_OF_FREE * free),
        }
        mine = [[read for read in reads if (read.site, read.name) == (site, name)] for reads in samples]
        found += [
            Measurement("chunks.unpacked", "B", tuple(float(sum(r.unpacked for r in reads)) for reads in mine), about, HOW),
            Measurement("chunks.used", "B", tuple(float(sum(r.used for r in reads)) for reads in mine), about, HOW),
            Measurement("chunks.time", "s", tuple(sum(r.seconds for r in reads) for reads in mine), about, HOW),
        ]
    return found


def _of_openings(samples: list[list[Opening]]) -> list[Measurement]:
    times = sum(len(opened) for opened in samples)
    if not times:
        return []
    about: dict[str, str | int | float] = {
        "site": next(opening.site for opened in samples for opening in opened), "times": times / len(samples),
    }
    return [Measurement("chunks.opening", "s", tuple(sum(o.seconds for o in opened) for opened in samples), about, HOW)]
