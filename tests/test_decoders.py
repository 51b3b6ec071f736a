"""Decoders: each against Pillow's pixels, odd files, the comparison, and the swap inside of a data set."""

from __future__ import annotations

import io
import sys

import cv2
import numpy
import pytest
import torchvision
from conftest import ready_decoder
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from perfdoc.core.decoder import Decoder
from perfdoc.core.measurement import Unavailable
from perfdoc.core.registry import decoder_packages, discover, packages
from perfdoc.decoder_bench import answer as decoder_answer
from perfdoc.decoder_bench import worker as decoder_cell
from perfdoc.decoder_bench.bench import DecoderBench
from perfdoc.inject.feed.decoder_swap import DecoderSwap, exif_orientation
from perfdoc.inject.feed.swapped_dataset import swapped
from perfdoc.report import decoder_table

DECODERS = discover(Decoder, decoder_packages(packages()))
loaded = ready_decoder


def jpeg(size=(96, 64), seed=0, **options):
    rng = numpy.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=numpy.uint8)).resize(size).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg((320, 240), number))
    return tmp_path


def test_the_table_knows_all_decoders_without_importing_them():
    """What stands in the files is what the classes say; no decoder is called like another."""
    assert {slug: facts["title"] for slug, facts in decoder_table.known().items()} == {d.slug: d.title for d in DECODERS}
    assert all(type(d).__module__ == decoder_table.modules()[d.slug] for d in DECODERS)


@pytest.mark.parametrize("slug", sorted(d.slug for d in DECODERS))
def test_a_decoder_delivers_pillows_pixels(slug):
    """Height, width, RGB, uint8; as Pillow decodes it, or off by a rounding."""
    decoder = loaded(slug)
    data = jpeg()
    picture = numpy.asarray(decoder.decode(data))
    wanted = numpy.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == wanted.shape
    assert picture.dtype == numpy.uint8
    assert abs(picture.astype(int) - wanted.astype(int)).max() <= 3
    assert len(decoder.decode_all([data, data])) == 2


@pytest.mark.parametrize(("slug", "case", "outcome"), [
    ("pil", "cut off", "raises OSError"),
    ("turbojpeg", "cut off", "returns a picture"),
    ("simplejpeg", "cut off", "raises ValueError"),
    ("cv2", "PNG named .jpg", "same pixels"),
    ("simplejpeg", "PNG named .jpg", "raises ValueError"),
    ("torchvision", "16-bit PNG", "returns uint16"),
    ("cv2", "grayscale", "same pixels"),
])
def test_odd_files_are_told_apart(slug, case, outcome):
    """Who raises, and who returns something: found by decoding such files."""
    assert decoder_cell.quality(loaded(slug), [jpeg()]).cases[case] == outcome


def test_the_comparison_runs_in_processes_of_its_own(folder):
    """Rounds of fresh processes give rates alone and in workers, ratios to Pillow, and the missing decoder's package."""
    modules = {"pil": "perfdoc_probes.decoders.pil", "cv2": "perfdoc_probes.decoders.cv2"}
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xffrubbish")
    files = sorted(f.name for f in folder.iterdir())
    bench = DecoderBench(sys.executable, folder, files, 224, 2, 1.0, {**modules, "nothere": "perfdoc_probes.decoders.nothere"})
    found = bench.run()
    answer = decoder_answer.read(found)
    assert answer.files == 4  # the broken one is common to none
    assert {row.slug for row in answer.rows if not row.missing} == set(modules)
    row = answer.row("cv2")
    assert row.decodes == pytest.approx(0.8)
    assert row.pixels == "same"
    for where in ("alone", "in workers"):
        effect = answer.speedup(row, where)
        assert effect.low < effect.speedup < effect.high
    assert any(isinstance(m, Unavailable) and m.metric == "decoder.nothere" for m in found)
    assert "cv2.imread and imdecode turn pictures by EXIF" in " ".join(decoder_table.render(answer).split())


class ByPil(Dataset):
    def __init__(self, folder):
        self.paths = sorted(folder.glob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with open(self.paths[index], "rb") as f:
            image = Image.open(f)
            return numpy.array(image.convert("RGB"))


class ByPath(ByPil):
    def __getitem__(self, index):
        return numpy.array(Image.open(self.paths[index]))


class ByCv2(ByPil):
    def __getitem__(self, index):
        return cv2.imread(str(self.paths[index]))


class ByTorchvision(ByPil):
    def __getitem__(self, index):
        return torchvision.io.read_image(str(self.paths[index]))


@pytest.mark.parametrize("kind", [ByPil, ByPath, ByCv2, ByTorchvision])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_swapped_decoder_makes_the_same_samples(folder, kind, workers):
    """Another decoder behind the user's calls: the same samples, in workers too, and every call is given back."""
    loaded("simplejpeg")
    before = Image.open, cv2.imread, torchvision.io.read_image
    plain = kind(folder)
    other = swapped(plain, DecoderSwap("perfdoc_probes.decoders.simplejpeg"))
    assert len(other) == 4
    assert other.paths == plain.paths
    got = [batch[0] for batch in DataLoader(other, batch_size=1, num_workers=workers)]
    for mine, theirs in zip(got, (plain[n] for n in range(4)), strict=True):
        assert abs(numpy.asarray(mine).astype(int) - numpy.asarray(theirs).astype(int)).max() <= 3
    assert (Image.open, cv2.imread, torchvision.io.read_image) == before


def test_the_swap_really_decodes(folder, monkeypatch):
    """The swapped decoder is what is called: counted."""
    decoder = loaded("simplejpeg")
    calls = []
    monkeypatch.setattr(type(decoder), "decode", lambda self, data: calls.append(1) or numpy.zeros((240, 320, 3), numpy.uint8))
    sample = swapped(ByPil(folder), DecoderSwap("perfdoc_probes.decoders.simplejpeg"))[0]
    assert calls
    assert not sample.any()


def test_what_is_no_colour_jpeg_is_left_to_its_library(tmp_path):
    """Grey, CMYK and PNG files come out as before."""
    loaded("turbojpeg")
    Image.new("L", (8, 8), 7).save(tmp_path / "a.jpg")
    Image.new("CMYK", (8, 8), 7).save(tmp_path / "b.jpg")
    Image.new("RGB", (8, 8), 7).save(tmp_path / "c.jpg", "PNG")
    plain = ByPath(tmp_path)
    other = swapped(plain, DecoderSwap("perfdoc_probes.decoders.turbojpeg"))
    for index in range(3):
        assert (other[index] == plain[index]).all()


def test_draft_mode_keeps_enough_pixels(folder):
    """A side of 100 pixels of a picture of 320 x 240: half the size, never below the side asked for."""
    sample = swapped(ByPil(folder), DecoderSwap("perfdoc_probes.decoders.pil_draft", 100))[0]
    assert sample.shape == (120, 160, 3)


def test_orientation_is_read_from_exif():
    """cv2.imread turns such pictures, so they are left to it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert exif_orientation(jpeg(exif=exif)) == 6
    assert exif_orientation(jpeg()) == 1
