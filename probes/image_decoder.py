"""Treatment: another JPEG decoder inside the user's own data set."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from torch.utils.data import IterableDataset

from perfdoc.core.decoder import JPEG_START, Decoder
from perfdoc.core.registry import discover
from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.decoder_swap import DecoderSwap
from perfdoc.inject.feed.swapped_dataset import swapped
from perfdoc.inject.samples.sample_watch import DECODE, Sample, SampleWatch, Unchanged

from . import decoders

LOOKED_AT = 4
"""Samples that are looked at before the treatment is offered."""
TRIED = 2
"""Decoders that are tried in the loop: the fastest ones on a few of the user's files."""
TIMED = 0.05
"""Seconds a decoder is timed on them."""
WORTH = 0.03
"""Share of a sample's time that decoding must take."""


def seen_samples(dataset: Any, count: int = LOOKED_AT) -> list[Sample]:
    """What is seen of a few samples from all over the data set. Raises what it raises."""
    length = len(dataset)
    with SampleWatch(dataset) as watch:
        return [watch.sample(place)[1] for place in range(0, length, max(1, math.ceil(length / count)))]


def jpegs_of(samples: list[Sample]) -> list[bytes]:
    """The JPEGs among what samples were made from."""
    datas = [source.read() for sample in samples for source in sample.sources]
    return [data for data in datas if data.startswith(JPEG_START)]


class ImageDecoder(Treatment):
    """The decoders that are fastest on the user's files, behind ``PIL.Image.open``, ``cv2.imread`` or ``read_image``."""

    slug = "image_decoder"
    title = "image decoder"
    numerics = False
    phases = ("data",)

    def __init__(self) -> None:
        self._modules: dict[str, str] = {}

    def offer(self, loop: Loop) -> Offer:
        """Offered where samples are decoded from JPEGs by a call that can be swapped, and another decoder is installed."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        dataset = loop.loaders[0].loader.dataset
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            return Offer("not applicable", reason="samples of a stream cannot be looked at one by one")
        samples = seen_samples(dataset)
        datas = jpegs_of(samples)
        if not datas:
            return Offer("not applicable", reason="no JPEG was seen being decoded for a sample")
        share = sum(s for sample in samples for (part, _), s in sample.parts.items() if part == DECODE)
        if share < WORTH * sum(sample.seconds for sample in samples):
            return Offer("not applicable", reason=f"decoding takes less than {WORTH:.0%} of a sample's time")
        now = {name for sample in samples for part, name in sample.parts if part == DECODE}
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks the data set is not swapped: scan with one")
        able, missing = self._fastest(datas, now)
        if able and not self._acts(dataset, self._modules[able[0].slug]):
            return Offer("not applicable", reason="pictures are opened by a call that cannot be swapped")
        if not able:
            return Offer("untestable here", reason="no other decoder is installed: pip install " + " or ".join(missing))
        return Offer("offered", tuple(Level(d.slug, f"decode JPEGs with {d.title}") for d in able))

    @staticmethod
    def _acts(dataset: Any, module: str) -> bool:
        """Whether the swap decodes anything: the calls that samples are made with may be others than those it stands behind."""
        swap, length = DecoderSwap(module), len(dataset)
        other = swapped(dataset, swap)
        with Unchanged(dataset):
            for place in range(0, length, max(1, math.ceil(length / LOOKED_AT))):
                other[place]
        return swap.decoded > 0

    def _fastest(self, datas: list[bytes], now: set[str]) -> tuple[list[Decoder], list[str]]:
        """The fastest decoders that decode all of ``datas``, and the packages of those that are missing."""
        times: dict[Decoder, float] = {}
        missing = []
        for decoder in discover(Decoder, [decoders.__name__]):  # type: ignore[type-abstract]
            if not decoder.swappable or any(name.startswith(decoder.slug) for name in now):
                continue
            try:
                decoder.load(single_thread=False)
                decoder.decode_all(datas)
                passes, start = 0, perf_counter()
                while perf_counter() - start < TIMED:
                    decoder.decode_all(datas)
                    passes += 1
                times[decoder] = (perf_counter() - start) / passes
                self._modules[decoder.slug] = type(decoder).__module__
            except (ImportError, OSError):
                missing.append(decoder.package)
            except Exception:  # a file that it cannot decode: not for this data set
                continue
        return sorted(times, key=lambda decoder: times[decoder])[:TRIED], missing

    def apply(self, loop: Loop, level: str) -> None:
        """Make samples with that decoder, in the workers too."""
        module = self._modules[level]
        for handle in loop.loaders:
            handle.feed_dataset(f"{self.slug}={level}", lambda dataset: swapped(dataset, DecoderSwap(module)))

    def restore(self, loop: Loop) -> None:
        """Make samples with the user's own."""
        for handle in loop.loaders:
            for level in self._modules:
                handle.feed_dataset(f"{self.slug}={level}", None)
