"""Treatment: JPEGs decoded at a fraction of their size, where the data set shrinks them afterwards."""

from __future__ import annotations

from torch.utils.data import IterableDataset

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.feed.decoder_swap import DecoderSwap
from perfdoc.inject.feed.swapped_dataset import swapped
from perfdoc.inject.samples.sample_watch import TRANSFORM, Sample, Unchanged

from .decoders.pil_draft import PilDraftDecoder
from .image_decoder import jpegs_of, seen_samples
from .sample_anatomy import pixels

SHRINKING = (
    "RandomResizedCrop", "Resize", "PIL resize", "PIL thumbnail", "SmallestMaxSize", "LongestMaxSize", "ScaleJitter",
    "RandomShortestSize",
)
"""First transforms that bring pictures of any size to the one used, so that decoding to less changes only the resampling."""
ROOM = 2.0
"""Times the size used that either side keeps at least: random crops of a quarter of the picture are not enlarged."""


class ScaledDecode(Treatment):
    """``image.draft("RGB", size)`` after ``PIL.Image.open``: JPEG at 1/2, 1/4 or 1/8, twice the size used at least."""

    slug = "scaled_decode"
    title = "scaled decoding"
    numerics = False
    role = "trade_off"
    phases = ("data",)

    def __init__(self) -> None:
        self.side = 0

    def offer(self, loop: Loop) -> Offer:
        """Offered where PIL decodes JPEGs of more than four times the pixels that are needed before they are shrunk."""
        if not loop.loaders:
            return Offer("not applicable", reason="no DataLoader in the step")
        loader = loop.loaders[0].loader
        if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
            return Offer("not applicable", reason="samples of a stream cannot be looked at one by one")
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks the data set is not swapped: scan with one")
        samples = seen_samples(loader.dataset)
        if not jpegs_of(samples) or not any(name == "PIL" for s in samples for _, name in s.parts):
            return Offer("not applicable", reason="no JPEG was seen being decoded by PIL")
        first = {_first_transform(sample) for sample in samples}
        if not first <= set(SHRINKING):
            return Offer("not applicable", reason="the first transform does not bring pictures of any size to one")
        with Unchanged(loader.dataset):
            used = pixels(loader.dataset[0])
        decoded = min(max(sample.decoded, default=0) for sample in samples)
        self.side = round(ROOM * used**0.5)
        if not used or decoded < 4 * self.side**2:
            return Offer("not applicable", reason="pictures are hardly larger than what is used of them")
        return Offer("offered", (Level("draft", f'image.draft("RGB", ({self.side}, {self.side})) after Image.open'),))

    def apply(self, loop: Loop, level: str) -> None:
        """Let PIL decode at a fraction."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, lambda dataset: swapped(dataset, DecoderSwap(PilDraftDecoder.__module__, self.side)))

    def restore(self, loop: Loop) -> None:
        """Decode in full."""
        for handle in loop.loaders:
            handle.feed_dataset(self.slug, None)


def _first_transform(sample: Sample) -> str:
    return next((name for part, name in sample.parts if part == TRANSFORM), "")
