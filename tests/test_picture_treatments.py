"""Pictures: decoders, scaled decoding and a cache, tried inside the user's own data set while the loop runs."""

from __future__ import annotations

import cv2
import numpy
import pytest
import torch
from perfdoc_probes.cached_pictures import CachedPictures
from perfdoc_probes.image_decoder import ImageDecoder
from perfdoc_probes.prefetching import Prefetching
from perfdoc_probes.scaled_decode import ScaledDecode
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision.transforms import transforms

from perfdoc.inject.feed.decoder_swap import DecoderSwap
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.feed.swapped_dataset import swapped


class Loop:
    """A loop that fetches from one loader."""

    device, cores, ranks = "cpu", 2.0, 1

    def __init__(self, loader):
        handle = Handle(0, loader, "train.py:1")
        handle._kept = loader
        self.loaders = [handle]


@pytest.fixture
def folder(tmp_path):
    rng = numpy.random.default_rng(0)
    for number in range(6):
        place = tmp_path / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=numpy.uint8)).resize((640, 480))
        coarse.save(place / f"{number}.jpg", quality=90)
    return tmp_path


def loop_of(folder, *steps, workers=0):
    steps = steps or (transforms.Resize(48), transforms.CenterCrop(48), transforms.ToTensor())
    dataset = datasets.ImageFolder(folder, transforms.Compose(list(steps)))
    return Loop(DataLoader(dataset, batch_size=6, num_workers=workers))


@pytest.mark.parametrize(("kind", "workers", "largest"), [
    (ImageDecoder, 0, 0.02), (ImageDecoder, 1, 0.02), (CachedPictures, 0, 1e-6), (CachedPictures, 1, 1e-6),
    (ScaledDecode, 0, 0.5), (ScaledDecode, 1, 0.5),
])
def test_batches_are_the_same_under_a_treatment_and_after_it(folder, kind, workers, largest):
    """Another decoder, a cache, scaled decoding: the same pictures, but for their resampling; then all is back."""
    loop, treatment = loop_of(folder, workers=workers), kind()
    handle = loop.loaders[0]
    opener, threads = Image.open, (torch.get_num_threads(), cv2.getNumThreads())
    before = handle.draw()
    offer = treatment.offer(loop)
    assert offer.status == "offered", offer.reason
    try:
        for level in offer.levels:
            treatment.apply(loop, level.name)
            under = handle.draw()
            treatment.restore(loop)
            assert under[0].shape == before[0].shape
            assert (under[0] - before[0]).abs().max() <= largest
            assert torch.equal(under[1], before[1])
        assert torch.equal(handle.draw()[0], before[0])
        assert Image.open is opener
        assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    finally:
        handle.close()


@pytest.mark.parametrize("kind", [ImageDecoder, CachedPictures, ScaledDecode])
def test_what_decodes_nothing_is_not_offered_anything(kind):
    """Tensors in memory: not applicable, with the reason."""
    offer = kind().offer(Loop(DataLoader(TensorDataset(torch.randn(8, 2)))))
    assert offer.status == "not applicable"
    assert offer.reason


class ByFlags(datasets.ImageFolder):
    """Pictures opened by a call with flags, which no swap stands behind."""

    def __getitem__(self, index):
        return torch.from_numpy(cv2.imread(self.samples[index][0], cv2.IMREAD_COLOR))


def test_a_call_that_cannot_be_swapped_is_no_no_difference(folder):
    """A decoder that would never be called is not tried: its arm would be the control against itself."""
    offer = ImageDecoder().offer(Loop(DataLoader(ByFlags(folder))))
    assert offer.status == "not applicable"
    assert "cannot be swapped" in offer.reason


def test_several_ranks_are_not_swapped(folder):
    """Only rank 0 sees the offer: the others would go on with their own decoder."""
    loop = loop_of(folder)
    loop.ranks = 2
    assert {kind().offer(loop).status for kind in (ImageDecoder, CachedPictures, ScaledDecode)} == {"untestable here"}


def test_attributes_reach_the_data_set_inside(folder):
    """What a worker_init_fn sets on the data set of its worker is set on the user's."""
    dataset = loop_of(folder).loaders[0].loader.dataset
    swapped(dataset, DecoderSwap("perfdoc_probes.decoders.cv2")).start = 7
    assert dataset.start == 7


def test_scaled_decoding_needs_pictures_that_are_shrunk(folder):
    """A crop of fixed size from the whole picture would show something else: not offered. Nor where little is thrown away."""
    assert ScaledDecode().offer(loop_of(folder, transforms.RandomCrop(48), transforms.ToTensor())).status == "not applicable"
    large = loop_of(folder, transforms.Resize((400, 400)), transforms.ToTensor())
    assert ScaledDecode().offer(large).status == "not applicable"


def test_prefetching_is_offered_where_there_are_workers():
    """Deeper and in any order, with workers; nothing without."""
    data = TensorDataset(torch.randn(64, 2))
    assert Prefetching().offer(Loop(DataLoader(data))).status == "not applicable"
    loop = Loop(DataLoader(data, num_workers=1, batch_size=2))
    treatment = Prefetching()
    assert [level.name for level in treatment.offer(loop).levels] == ["deeper", "any_order"]
    treatment.apply(loop, "deeper")
    handle = loop.loaders[0]
    handle.draw()
    assert handle._source().twin.prefetch_factor == 8
    treatment.restore(loop)
    assert handle._source().twin.prefetch_factor == 2
    handle.close()


@pytest.mark.alone
def test_decoding_is_what_holds_the_step_back(scan):
    """Pictures of 2 megapixels for 64 pixels: scaled decoding helps the step, the anatomy says decoding, the files stay."""
    ran = scan("pictures.py", budget=16, options=("--only", "scaled_decode", "--json"))
    assert ran.code == 0, ran.err
    findings = {finding["code"]: finding for finding in ran.found["findings"]}
    assert findings["PD108"]["verdict"] == "helps"
    assert findings["PD108"]["effect"]["low"] > 1.3
    assert any("million pixels are decoded" in line for line in findings["PD108"]["evidence"])
    assert "scaled_decode" not in ran.capture["experiment"]["plan"]  # it changes pixels: never planned
    parts = {m["conditions"]["part"]: m for m in ran.capture["measurements"] if m["metric"] == "sample.part"}
    assert "decode" in parts
    assert not (ran.folder / "pictures").exists()  # the script made them
    assert len(list((ran.run_folder / "redirected").rglob("*.jpg"))) == 8
