"""The patch that gives a data set another decoder: the same pictures, whatever kind of file they come from."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import builders
import numpy
import pytest
from conftest import ready_decoder
from PIL import Image
from test_patch import captured
from torchvision.datasets import ImageFolder

from perfdoc.patch.edits.image_decoder import CODE
from perfdoc.patch.make import make

FOLDER = """
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    root = "pictures"
    data = ImageFolder(root)
    valid = ImageFolder(
        root,
        transform=None,
    )
"""
OWN = """
    import torch
    import PIL.Image as Pictures
    from PIL import Image


    class Data(torch.utils.data.Dataset):
        def __getitem__(self, path):
            image = Image.open(path).convert("RGB")
            return image

        def mask(self, path):
            return Image.open(path).convert("L")


    def opened(path):
        with open(path, "rb") as f:
            return Pictures.open(f)


    data = Data()
"""
LARGEST = 3
"""Levels of 255 by which decoders of the same JPEG differ."""


def of(folder, text, dataset):
    """A capture whose step reads from such a data set."""
    return captured(folder, text, loaders=[builders.loader(site="", dataset=dataset)])


def module_of(folder, text, name):
    """The text, as a module that was run in ``folder``."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Colour, grey and CMYK JPEGs, one with a turned orientation, PNGs with palette and transparency, a PNG named .jpg."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    place = tmp_path / "pictures" / "class"
    place.mkdir(parents=True)
    coarse = numpy.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=numpy.uint8)
    image = Image.fromarray(coarse).resize((160, 120))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(place / "colour.jpg", quality=92)
    image.save(place / "turned.jpg", quality=92, exif=turned)
    image.save(place / "progressive.jpg", quality=92, progressive=True)
    image.convert("L").save(place / "grey.jpg")
    image.convert("CMYK").save(place / "cmyk.jpg")
    image.convert("P").save(place / "palette.png")
    image.convert("RGBA").save(place / "alpha.png")
    image.save(place / "png.jpg", format="PNG")
    return place


def changed(folder, text, level, dataset):
    """The text with its patch."""
    patch = make(of(folder, text, dataset), {"image_decoder": level})
    assert not patch.snippets, patch.snippets
    (folder / "change.patch").write_text(patch.diff)
    subprocess.run(["git", "apply", "change.patch"], cwd=folder, check=True)
    return (folder / "train.py").read_text()


@pytest.mark.parametrize("level", CODE)
def test_a_folder_of_pictures_is_the_same_with_every_decoder(level, pictures, tmp_path):
    """ImageFolder with its new loader gives the pictures that it gave before, of all kinds of files."""
    ready_decoder(level)
    text = changed(tmp_path, FOLDER, level, "ImageFolder")
    before, after = ImageFolder(tmp_path / "pictures"), module_of(tmp_path, text, f"after_{level}")
    for place, (path, _) in enumerate(after.data.samples):
        old, new = (numpy.asarray(data[place][0]).astype(int) for data in (before, after.data))
        assert old.shape == new.shape, path
        assert abs(old - new).max() <= LARGEST, path
    assert after.valid.loader is after.data.loader


@pytest.mark.parametrize("level", CODE)
def test_pictures_that_a_data_set_opens_itself(level, pictures, tmp_path):
    """`Image.open(path).convert("RGB")` becomes a call of the new function, which takes files too; other modes stay."""
    ready_decoder(level)
    text = changed(tmp_path, OWN, level, "Data")
    assert "image = load_rgb(path)" in text
    assert 'Image.open(path).convert("L")' in text
    after = module_of(tmp_path, text, f"own_{level}")
    for path in sorted(pictures.iterdir()):
        old = numpy.asarray(Image.open(path).convert("RGB")).astype(int)
        with path.open("rb") as f:
            found = [after.data[path], after.data[f]]
        for new in found:
            assert abs(old - numpy.asarray(new).astype(int)).max() <= LARGEST, path


def test_what_a_function_imports_for_itself_is_not_there_for_others(pictures, tmp_path):
    """PIL is imported inside a method: the new function has imports that it can reach."""
    text = OWN.replace("    from PIL import Image\n", "").replace(
        "image = Image.open(path)", "from PIL import Image\n            image = Image.open(path)").replace(
        'return Image.open(path).convert("L")', "return None")
    after = module_of(tmp_path, changed(tmp_path, text, "simplejpeg", "Data"), "nested")
    assert after.data[pictures / "colour.jpg"].size == (160, 120)


def test_the_function_reads_like_one_of_theirs(tmp_path, monkeypatch):
    """One function after the imports, and what it needs imported, nothing else."""
    monkeypatch.chdir(tmp_path)
    patch = make(of(tmp_path, FOLDER, "ImageFolder"), {"image_decoder": "simplejpeg"})
    assert [line for line in patch.diff.splitlines() if line[0] in "+-" and line != "+"][2:] == [
        "+from io import BytesIO", "+from pathlib import Path", "+from PIL import Image", "+import simplejpeg",
        "+def load_rgb(source):",
        '+    """A picture in RGB, as Image.open(source).convert("RGB"); colour JPEGs are decoded by simplejpeg."""',
        '+    data = source.read() if hasattr(source, "read") else Path(source).read_bytes()',
        "+    image = Image.open(BytesIO(data))  # reads the header alone",
        '+    if image.format != "JPEG" or image.mode != "RGB":',
        '+        return image.convert("RGB")',
        "+    return Image.fromarray(simplejpeg.decode_jpeg(data))",
        "-data = ImageFolder(root)", "+data = ImageFolder(root, loader=load_rgb)", "+    loader=load_rgb,",
    ]


@pytest.mark.parametrize(("text", "dataset", "why"), [
    (FOLDER.replace("(root)", "(root, loader=mine)"), "ImageFolder", "neither by"),
    (FOLDER, "Mine", "neither by"),
    (OWN.replace('convert("RGB")', 'resize((9, 9))'), "Data", "neither by"),
    (FOLDER.replace("root =", "from IPython.display import Image\n    root ="), "ImageFolder", "Image is something else"),
    (FOLDER.replace("root =", "from .io import BytesIO\n    root ="), "ImageFolder", "BytesIO is something else"),
    (OWN.replace("return image\n", "return ImageOps.exif_transpose(image)\n"), "Data", "EXIF"),
])
def test_what_opens_pictures_otherwise_is_left_to_the_user(text, dataset, why, tmp_path, monkeypatch):
    """A loader of their own, a data set only of the validation, names that are taken, EXIF that would be lost: a snippet."""
    monkeypatch.chdir(tmp_path)
    patch = make(of(tmp_path, text, dataset), {"image_decoder": "cv2"})
    assert patch.diff == ""
    (left,) = patch.snippets
    assert why in left.why
    assert "def load_rgb" in left.code
