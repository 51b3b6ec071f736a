"""Treatment: decoded pictures kept in memory."""

from __future__ import annotations

import sys
from typing import Any

from torch.utils.data import IterableDataset

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.decoder_swap import holders
from perfdoc.inject.feed.swapped_dataset import SwappedDataset
from perfdoc.inject.feed.twin import start_method
from perfdoc.inject.samples.equal_values import BYTES_A_PIXEL
from perfdoc.inject.samples.few_samples import FewSamples, no_room

from .image_decoder import seen_samples


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
        if loop.loaders[0].loader.num_workers and start_method(loop.loaders[0].loader) != "fork":
            return Offer("not applicable", reason="workers that are not forked start with an empty cache")
        pixels = sum(sum(s.decoded) for s in samples) / len(samples)
        needed = pixels * BYTES_A_PIXEL * len(dataset)
        why = no_room(needed, loop.loaders[0].loader, "decoded")
        if why:
            return Offer("not applicable", reason=why)
        return Offer("offered", (Level("on", f"keep decoded pictures in memory ({needed / 2**20:.0f} MiB)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Fill the cache and serve its samples."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, lambda dataset: FewSamples(dataset, SwappedDataset(dataset, _Cache())))

    def restore(self, loop: Loop) -> None:
        """Serve all samples from their files."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)
