"""Where a sample's time goes, seen in data sets of all styles; nothing of what was wrapped stays behind."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy
import pytest
import torch
import torchvision
from perfdoc_probes.iterable_sharding import IterableSharding
from perfdoc_probes.sample_anatomy import SampleAnatomy
from perfdoc_probes.storage import Storage
from PIL import Image, ImageFile
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.transforms import transforms as old
from torchvision.transforms import v2

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.samples.sample_watch import SampleWatch
from perfdoc.loader_bench import samples as sample_answer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with two classes of JPEGs of 320 x 240."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = numpy.random.default_rng(0)
    for number in range(8):
        place = folder / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=numpy.uint8)).resize((320, 240))
        coarse.save(place / f"{number}.jpg", quality=90)
    return folder


def slow(image):
    time.sleep(0.004)
    return image


def paths(folder):
    return sorted(folder.glob("*/*.jpg"))


class ByPil(Dataset):
    """PIL by hand, as people write it."""

    def __init__(self, folder):
        self.paths = paths(folder)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB").resize((64, 64))
        return torch.from_numpy(numpy.array(image))


class ByCv2(ByPil):
    def __getitem__(self, index):
        return torch.tensor(cv2.resize(cv2.imread(str(self.paths[index])), (64, 64)))


class ByTorchvision(ByPil):
    def __getitem__(self, index):
        return torchvision.io.read_image(str(self.paths[index])).float()


class FromMemory(ByPil):
    """Encoded bytes that come from elsewhere: LMDB, a zip file, HF datasets."""

    def __getitem__(self, index):
        return torch.from_numpy(numpy.array(Image.open(io.BytesIO(self.paths[index].read_bytes())).convert("RGB")))


class Albumented(ByPil):
    """A transform that is called with names, in the way of albumentations: a single callable of the data set."""

    def __init__(self, folder):
        super().__init__(folder)
        self.transform = slow

    def __getitem__(self, index):
        return self.transform(super().__getitem__(index))


def folder_of(kind):
    def make(folder):
        if kind == "old":
            steps = old.Compose([old.RandomResizedCrop(64), old.Lambda(slow), old.ToTensor()])
        else:
            flips = v2.Compose([v2.RandomHorizontalFlip()])
            steps = v2.Compose([v2.ToImage(), v2.Resize(64), flips, v2.ToDtype(torch.float32)])
        return datasets.ImageFolder(folder, steps)

    return make


WRAPPED = (
    (Image, "open"), (ImageFile.ImageFile, "load"), (Image.Image, "convert"), (Image.Image, "resize"), (cv2, "imread"),
    (torchvision.io, "read_image"), (torch, "tensor"), (torch, "from_numpy"), (old.Compose, "__call__"),
    (v2.Compose, "forward"),
)


@pytest.mark.parametrize(("make", "expected"), [
    (ByPil, {("read", "PIL open"), ("decode", "PIL"), ("convert", "PIL convert"), ("transform", "PIL resize")}),
    (ByCv2, {("decode", "cv2 imread"), ("transform", "cv2 resize"), ("convert", "torch tensor")}),
    (ByTorchvision, {("decode", "torchvision read_image")}),
    (FromMemory, {("decode", "PIL"), ("convert", "torch from_numpy")}),
    (Albumented, {("decode", "PIL"), ("transform", "slow")}),
    (folder_of("old"), {("decode", "PIL"), ("transform", "RandomResizedCrop"), ("transform", "Lambda"),
                        ("convert", "ToTensor")}),
    (folder_of("new"), {("decode", "PIL"), ("convert", "ToImage"), ("transform", "Resize"),
                        ("transform", "RandomHorizontalFlip")}),
    (lambda folder: Subset(Albumented(folder), range(4)), {("decode", "PIL"), ("transform", "slow")}),
], ids=["pil", "cv2", "torchvision", "bytes", "callable", "old transforms", "v2", "subset"])
def test_the_parts_of_a_sample_are_named(pictures, make, expected):
    """Decoding, transforms and conversions are found in each style, the file is known, and all is put back."""
    dataset = make(pictures)
    before = [place.__dict__.get(name) for place, name in WRAPPED]
    plain = dataset[1]
    with SampleWatch(dataset) as watch:
        value, seen = watch.sample(1)
    assert [place.__dict__.get(name) for place, name in WRAPPED] == before
    assert expected <= set(seen.parts), seen.parts
    assert type(value) is type(plain)
    assert sum(seen.parts.values()) == pytest.approx(seen.seconds, rel=0.02)
    assert len(seen.sources) == 1
    assert seen.sources[0].read().startswith(b"\xff\xd8")
    assert seen.decoded[0] == 320 * 240


def test_time_is_where_it_is_spent(pictures):
    """A transform that sleeps 4 ms has 4 ms; decoding inside of a transform is decoding."""
    with SampleWatch(folder_of("old")(pictures)) as watch:
        _, seen = watch.sample(0)
    assert 0.004 <= seen.parts["transform", "Lambda"] < 0.02
    assert seen.parts["decode", "PIL"] > seen.parts["convert", "ToTensor"] / 10


def test_copies_of_arrays_are_found_at_their_line(pictures):
    """torch.tensor of an array is named with file and line; torch.from_numpy is not."""
    with SampleWatch(ByCv2(pictures)) as watch:
        _, seen = watch.sample(0)
    assert [site.rsplit(":", 1)[0].rsplit("/", 1)[-1] for site in seen.copied] == ["test_sample_watch.py"]
    with SampleWatch(ByPil(pictures)) as watch:
        _, seen = watch.sample(0)
    assert not seen.copied


def test_a_data_set_that_raises_leaves_nothing_wrapped():
    """What the data set raises comes through, and torch is as before."""

    class Broken(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise KeyError(index)

    original = torch.tensor
    with pytest.raises(KeyError), SampleWatch(Broken()) as watch:
        watch.sample(0)
    assert torch.tensor is original


class Lazy(Dataset):
    """Opens its file at the first sample, as it should, and decodes in threads of its own."""

    def __init__(self, path):
        self.path = path
        self.file = None
        self.pool = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115
        self.file.seek(0)
        data = self.file.read()
        with ThreadPoolExecutor(2) as pool:
            images = list(pool.map(lambda _: Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8)), range(2)))
        return torch.from_numpy(numpy.array(images[0]))


def test_what_a_data_set_opens_at_first_use_is_closed_again(pictures):
    """Workers forked later would share it; threads of the data set's own are let through."""
    dataset = Lazy(paths(pictures)[0])
    with SampleWatch(dataset) as watch:
        _, seen = watch.sample(0)
        opened = dataset.file
    assert dataset.file is None
    assert opened.closed
    assert ("convert", "torch from_numpy") in seen.parts


class Loop:
    """What probes of loaders look at."""

    def __init__(self, loader):
        handle = Handle(0, loader, "train.py:1")
        handle._kept = loader
        self.loaders = [handle]


def test_the_anatomy_adds_up_and_names_what_holds_it_back(pictures):
    """A slow transform is most of the sample; collate and transfer are there; threads are as before."""
    threads = torch.get_num_threads()
    found = SampleAnatomy().measure(Loop(DataLoader(folder_of("old")(pictures), batch_size=4, num_workers=1)), {})
    assert torch.get_num_threads() == threads
    assert {m.metric for m in found} == set(SampleAnatomy.provides)
    answer = sample_answer.read(found)
    assert answer.parts[0].name == "Lambda"
    assert "transforms" in answer.sentence
    assert sum(part.share for part in answer.parts) == pytest.approx(1)
    assert {"collate", "transfer"} <= {part.part for part in answer.parts}
    assert {path.rsplit(".", 1)[1] for _, path, _ in answer.slowest} == {"jpg"}


def test_a_slow_sample_is_named():
    """One sample of many sleeps: it is named with its index, the others are not."""

    class Uneven(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            time.sleep(0.05 if index == 7 else 0.002)
            return torch.zeros(2)

    answer = sample_answer.read(SampleAnatomy().measure(Loop(DataLoader(Uneven(), batch_size=4)), {}))
    assert [index for index, _, _ in answer.uneven] == ["7"]


def test_stalls_of_the_machine_are_not_slow_samples():
    """More samples stall than are made again at first, each only once: none is named in the end."""

    class Stalling(Dataset):
        def __init__(self):
            self.calls = {}

        def __len__(self):
            return 20

        def __getitem__(self, index):
            self.calls[index] = self.calls.get(index, 0) + 1
            time.sleep(0.05 if index < 9 and self.calls[index] == 2 else 0.002)
            return torch.zeros(2)

    answer = sample_answer.read(SampleAnatomy().measure(Loop(DataLoader(Stalling(), batch_size=4)), {}))
    assert answer.uneven == []


def test_files_are_read_warm_and_cold(pictures):
    """Every file is read from the page cache; cold figures are there, or it is said why they cannot be."""
    found = {m.metric: m for m in Storage().measure(Loop(DataLoader(ByPil(pictures))), {})}
    assert len(found["storage.warm"].samples) == 8
    assert found["storage.size"].median > 1000
    cold = found["storage.cold"]
    assert isinstance(cold, Unavailable) or cold.median > 0


def test_what_reads_no_file_has_no_storage():
    """Tensors in memory: unavailable, with the reason, and no zero."""
    found = Storage().measure(Loop(DataLoader(TensorDataset(torch.randn(8, 2)))), {})
    assert all(isinstance(m, Unavailable) for m in found)


def test_slow_storage_is_said():
    """Where a cold file takes longer than the sample, the answer is storage."""
    found = [
        Measurement("sample.time", "s", (0.01,) * 8),
        Measurement("sample.part", "s", (0.01,) * 8, {"part": "decode", "name": "PIL"}),
        Measurement("storage.cold", "s", (0.08,)), Measurement("storage.warm", "s", (0.0001,)),
    ]
    assert sample_answer.read(found).sentence.startswith("Storage:")


class Stream(IterableDataset):
    def __init__(self, sharded):
        self.sharded = sharded

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker and self.sharded else (0, 1)
        return iter(torch.arange(64.0)[start::step])


@pytest.mark.parametrize("sharded", [True, False])
def test_streams_that_give_every_worker_all_are_found(sharded):
    """Two workers deliver the same batches unless the stream is shared out."""
    (found,) = IterableSharding().measure(Loop(DataLoader(Stream(sharded), batch_size=4, num_workers=2)), {})
    assert found.median == (0.0 if sharded else 1.0)
