"""Treatment: decoded pictures kept in memory."""

from __future__ import annotations

import math
import sys
from time import perf_counter
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.decoder_swap import holders
from perfdoc.inject.feed.swapped_dataset import SwappedDataset
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import process_use

from .image_decoder import seen_samples

FILL_SECONDS = 3.0
"""Time given to filling the cache that the loop is tried with."""
MOST_KEPT = 512
SHARE_OF_FREE = 0.5
"""Share of the free memory that all decoded pictures together may take."""
BYTES_A_PIXEL = 4
"""Of a decoded picture as PIL keeps it: RGB takes four bytes."""


class _Cache:
    """``PIL.Image.open`` that decodes every file once in each process."""

    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}
        self._patches: list[tuple[Any, str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": {}, "_patches": None}

    def enter(self) -> None:
        """Open from the cache."""
        module: Any = sys.modules.get("PIL.Image")
        if self._patches is None:
            self._patches = [] if module is None else [(p, n, module.open) for p, n in holders(module, "open", module.open)]
        for place, name, original in self._patches:
            setattr(place, name, lambda fp, *args, _original=original, **kwargs: self._open(_original, fp, *args, **kwargs))

    def leave(self) -> None:
        """Open from files."""
        for place, name, original in self._patches or ():
            setattr(place, name, original)

    def _open(self, original: Any, fp: Any, *args: Any, **kwargs: Any) -> Any:
        key = fp if isinstance(fp, str) else getattr(fp, "name", None) or (str(fp) if hasattr(fp, "__fspath__") else None)
        if not isinstance(key, str):
            return original(fp, *args, **kwargs)
        if key not in self.kept:
            picture = original(fp, *args, **kwargs)
            picture.load()
            self.kept[key] = picture
        return self.kept[key].copy()


def _start_method(loader: Any) -> str:
    context = loader.multiprocessing_context or torch.multiprocessing
    return str(context.get_start_method())


class _Filled(Dataset):  # type: ignore[misc]
    """The samples whose pictures are in the cache, in place of all: what every epoch after the first would meet."""

    def __init__(self, inner: Any, cache: _Cache) -> None:
        self._swapped = SwappedDataset(inner, cache)
        self._indices: list[Any] = []
        start = perf_counter()
        length = len(inner)
        # Nothing that this opens may be shared by the workers that are forked afterwards.
        with Unchanged(inner):
            self._fill(length, start)

    def _fill(self, length: int, start: float) -> None:
        for index in range(0, length, max(1, math.ceil(length / MOST_KEPT))):
            self._swapped[index]
            self._indices.append(index)
            if perf_counter() - start > FILL_SECONDS:
                break

    def __len__(self) -> int:
        return len(self._swapped)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._swapped, name)

    def __getitem__(self, index: Any) -> Any:
        place = index if isinstance(index, int) else hash(index)
        return self._swapped[self._indices[place % len(self._indices)]]


class CachedPictures(Treatment):
    """Pictures decoded once and kept, as in every epoch after the first; tried with as many as are decoded in three seconds."""

    slug = "cached_pictures"
    title = "decoded pictures kept in memory"
    numerics = False
    role = "trade_off"
    phases = ("data",)

    def offer(self, loop: Loop) -> Offer:
        """Offered where PIL opens files for samples and all of them, decoded, take less than half of the free memory."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        dataset = loop.loaders[0].loader.dataset
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            return Offer("not applicable", reason="samples of a stream cannot be looked at one by one")
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks the data set is not swapped: scan with one")
        samples = seen_samples(dataset)
        if not any(s.decoded and s.sources and s.sources[0].path for s in samples):
            return Offer("not applicable", reason="no picture was seen being decoded from a file")
        if not any(name == "PIL" for s in samples for _, name in s.parts):
            return Offer("not applicable", reason="pictures are not decoded by PIL")
        if loop.loaders[0].loader.num_workers and _start_method(loop.loaders[0].loader) != "fork":
            return Offer("not applicable", reason="workers that are not forked start with an empty cache")
        pixels = sum(sum(s.decoded) for s in samples) / len(samples)
        needed = pixels * BYTES_A_PIXEL * len(dataset)
        copies = max(1, loop.loaders[0].loader.num_workers)
        free = process_use.free_memory()
        if free is None or needed * copies > SHARE_OF_FREE * free:
            each = f" in each of {copies} workers" if copies > 1 else ""
            return Offer("not applicable", reason=f"decoded, the data set takes {needed / 2**30:.3g} GiB{each}: too much here")
        return Offer("offered", (Level("on", f"keep decoded pictures in memory ({needed / 2**20:.0f} MiB)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Fill the cache and serve its samples."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, lambda dataset: _Filled(dataset, _Cache()))

    def restore(self, loop: Loop) -> None:
        """Serve all samples from their files."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)
