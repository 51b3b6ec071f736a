"""Treatment: the loader replaced by a DALI pipeline that does what its transforms do."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from torch.utils.data import RandomSampler, SequentialSampler, default_collate

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.dali_source import DaliSource, Recipe, recipe_of

PACKAGE = "nvidia-dali-cuda120"


class DaliPipeline(Treatment):
    """An image folder with recognised transforms, read, decoded and augmented by DALI's threads on the CPU."""

    slug = "dali_pipeline"
    title = "DALI pipeline in place of the loader"
    numerics = False
    role = "trade_off"
    phases = ("data",)

    def __init__(self) -> None:
        self._recipe: Recipe | None = None

    def offer(self, loop: Loop) -> Offer:
        """Offered for torchvision's image folders whose transforms all have a counterpart, where DALI is installed."""
        if len(loop.loaders) != 1:
            return Offer("not applicable", reason="the step does not fetch from one DataLoader")
        loader = loop.loaders[0].loader
        samples = getattr(loader.dataset, "samples", None)
        steps = getattr(getattr(loader.dataset, "transform", None), "transforms", None)
        if not isinstance(samples, list) or not samples or not _labelled(samples[0]) or steps is None:
            return Offer("not applicable", reason="the data set is no image folder with composed transforms")
        if not _plain(loader):
            return Offer("not applicable", reason="samples, labels or batches are formed in a way of the script's own")
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks the loader is not replaced: scan with one")
        try:
            self._recipe = recipe_of(steps)
        except ValueError as error:
            return Offer("not applicable", reason=f"{error}")
        if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
            return Offer("untestable here", reason=f"DALI is not installed: pip install {PACKAGE}")
        threads = max(1, math.floor(loop.cores))
        return Offer("offered", (Level("cpu", f"a DALI pipeline on the CPU, {threads} threads", expected_seconds=2.0),))

    def apply(self, loop: Loop, level: str) -> None:
        """Serve batches of the pipeline."""
        loader, recipe = loop.loaders[0].loader, self._recipe
        assert recipe is not None

        def make() -> Any:
            shuffled = isinstance(loader.sampler, RandomSampler)
            return DaliSource(loader.dataset.samples, recipe, loader.batch_size, max(1, math.floor(loop.cores)), shuffled)

        loop.loaders[0].feed_from(self.slug, make)

    def restore(self, loop: Loop) -> None:
        """Serve batches of the loader."""
        for handle in loop.loaders:
            handle.feed_from(self.slug, None)


def _plain(loader: Any) -> bool:
    """Whether loader and data set do nothing that the pipeline would leave out."""
    from torchvision.datasets.folder import DatasetFolder, default_loader

    dataset = loader.dataset
    return (
        isinstance(loader.batch_size, int) and loader.collate_fn is default_collate
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and isinstance(dataset, DatasetFolder) and type(dataset).__getitem__ is DatasetFolder.__getitem__
        and dataset.loader is default_loader and dataset.target_transform is None
    )


def _labelled(sample: Any) -> bool:
    return isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], str) and isinstance(sample[1], int)
