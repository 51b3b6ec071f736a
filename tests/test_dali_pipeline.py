"""The DALI pipeline that stands in for a loader: the same pictures where nothing is random, the same kind of batch always."""

from __future__ import annotations

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import transforms, v2

from perfdoc.inject.feed.dali_source import DaliSource, recipe_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def folder(tmp_path):
    rng = numpy.random.default_rng(0)
    for number in range(6):
        place = tmp_path / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=numpy.uint8)).resize((160, 120))
        coarse.save(place / f"{number}.jpg", quality=95)
    return tmp_path


def test_without_random_transforms_the_pictures_are_the_same(folder):
    """Resize, centre crop, normalise: labels equal, pictures as torchvision makes them but for the resampling."""
    pytest.importorskip("nvidia.dali")
    steps = [transforms.Resize(64), transforms.CenterCrop(56), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    dataset = datasets.ImageFolder(folder, transforms.Compose(steps))
    wanted = next(iter(DataLoader(dataset, batch_size=6)))
    source = DaliSource(dataset.samples, recipe_of(steps), 6, 2, shuffle=False)
    pictures, labels = source.next()
    source.close()
    assert type(wanted) is list
    assert pictures.shape == wanted[0].shape
    assert pictures.dtype == torch.float32
    assert torch.equal(labels, wanted[1])
    assert (pictures - wanted[0]).abs().mean() < 0.05  # of a standard deviation of 1


def test_random_transforms_deliver_batches_without_end(folder):
    """More batches than an epoch has, each of the right shape, in the range of normalised colours."""
    pytest.importorskip("nvidia.dali")
    steps = [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.4, 0.4, 0.4, 0.1),
             transforms.RandomVerticalFlip(), transforms.ToTensor()]
    source = DaliSource(datasets.ImageFolder(folder).samples, recipe_of(steps), 4, 1, shuffle=True)
    for _ in range(5):
        pictures, labels = source.next()
        assert pictures.shape == (4, 3, 32, 32)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        assert set(labels.tolist()) <= {0, 1}
    assert source.drain() == 0
    assert source.drain() == 2


@pytest.mark.parametrize(("steps", "why"), [
    ([transforms.RandomRotation(10), transforms.ToTensor()], "RandomRotation has no counterpart"),
    ([transforms.ToTensor(), transforms.Resize(8)], "Resize after the conversion"),
    ([transforms.ToTensor()], "pictures of one size"),
    ([transforms.Resize(64)], "pictures of one size"),
    ([v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32)], "ToDtype without scale"),
])
def test_what_has_no_counterpart_is_named(steps, why):
    """A composition that DALI cannot do alike is refused with the transform that stands in the way."""
    with pytest.raises(ValueError, match=why):
        recipe_of(steps)


def test_new_style_transforms_are_recognised():
    """torchvision.transforms.v2, as its documentation writes it."""
    recipe = recipe_of([v2.ToImage(), v2.RandomResizedCrop((48, 64)), v2.RandomHorizontalFlip(0.3),
                        v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    assert recipe.size == (48, 64)
    assert recipe.mirror == 0.3
    assert recipe.std == STD
