"""Edit: another decoder of JPEGs, as a function that takes the place of ``Image.open(path).convert("RGB")``."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import SourceFile, argument, dotted, last_name, with_argument
from perfdoc.patch.workspace import Workspace

FOLDERS = {"ImageFolder": 3, "ImageNet": None}
"""Data sets of torchvision that open a picture with a function they are given, and the place of that argument."""
WRAPPERS = ("Subset", "ConcatDataset")
"""Data sets of torch that hold others."""
Origin = tuple[str, str]
"""A module, and what is imported from it (empty: itself)."""


class Decode(NamedTuple):
    """How a decoder is written."""

    needs: tuple[Origin, ...]
    expression: str
    """RGB pixels of the JPEG ``data``."""
    parameter: str = ""
    """What is made once, as a default argument."""


NEEDS: tuple[Origin, ...] = (("io", "BytesIO"), ("pathlib", "Path"), ("PIL", "Image"))
CODE = {
    "simplejpeg": Decode((("simplejpeg", ""),), "simplejpeg.decode_jpeg(data)"),
    "turbojpeg": Decode(
        (("turbojpeg", ""),), "jpeg.decode(data, turbojpeg.TJPF_RGB)", "jpeg=turbojpeg.TurboJPEG()"),
    "cv2": Decode(
        (("cv2", ""), ("numpy", "")),
        "cv2.cvtColor(cv2.imdecode(numpy.frombuffer(data, numpy.uint8), "
        "cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)"),
    "torchvision": Decode(
        (("torch", ""), ("torchvision.io", "decode_image")),
        "decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode='RGB').permute(1, 2, 0).numpy()"),
}
FUNCTION = '''
def {name}({parameters}):
    """A picture in RGB, as Image.open(source).convert("RGB"); colour JPEGs are decoded by {decoder}."""
    data = source.read() if hasattr(source, "read") else Path(source).read_bytes()
    image = Image.open(BytesIO(data))  # reads the header alone
    if image.format != "JPEG" or image.mode != "RGB":
        return image.convert("RGB")
    return Image.fromarray({expression})
'''
NAMES = ("load_rgb", "load_rgb_image", "load_rgb_picture")


class ImageDecoderEdit(Edit):
    """``ImageFolder(..., loader=load_rgb)``; ``load_rgb(path)`` for the data set's own ``Image.open(path).convert("RGB")``."""

    slug = "image_decoder"

    def make(self, level: str, work: Workspace) -> str:
        """The calls that open pictures, and the function that they call now, once in every file."""
        places = self._folders(work) or self._own(work)
        if level not in CODE or not places:
            raise CannotEdit("pictures are opened neither by torchvision's ImageFolder nor by "
                             "Image.open(path).convert('RGB'): give the data set such a function", "")
        if any("exif_transpose" in source.text for source, _ in places):
            raise CannotEdit("the pictures are turned by their EXIF data, which other decoders do not keep", "",
                             work.shown(*places[0]))
        for source, call in places:
            source.change(call, partial(_rewritten, name=self._function(source, level)))
        return work.shown(*places[0])

    def snippet(self, level: str, work: Workspace) -> str:
        """The function, for whatever opens the pictures."""
        return _function("load_rgb", level).strip() + "  # ImageFolder(..., loader=load_rgb)" if level in CODE else (
            work.change(self.slug, level))

    @staticmethod
    def _folders(work: Workspace) -> list[tuple[SourceFile, cst.Call]]:
        """Calls that make torchvision's data sets with its own loader, where the step's data comes from such ones."""
        if not {loader.dataset for loader in work.loop.loaders} <= {*FOLDERS, *WRAPPERS}:
            return []
        calls = work.calls_of(*FOLDERS)
        return calls if all(
            argument(call, "loader", FOLDERS[last_name(dotted(call.func))]) is None and not any(a.star for a in call.args)
            for _, call in calls
        ) else []

    @staticmethod
    def _own(work: Workspace) -> list[tuple[SourceFile, cst.Call]]:
        """Calls of ``Image.open(x).convert("RGB")``."""
        return [(source, call) for source, call in work.calls_of("convert") if _opened(call) is not None]

    @staticmethod
    def _function(source: SourceFile, level: str) -> str:
        """The name of the function, which is put into the file with what it imports."""
        name = next(name for name in NAMES if name not in source.text or name == NAMES[-1])
        source.after_imports(_function(name, level))
        bound, present = _imported(source, source.module), _imported(source, *source.imports())
        for module, part in (*NEEDS, *CODE[level].needs):
            if bound.get(part or module, (module, part)) != (module, part):
                raise CannotEdit(f"{part or module} is something else in {source.path.name}", "")
            if (part or module) not in present:  # what a function imports for itself is not there for this one
                source.importing(f"from {module} import {part}" if part else f"import {module}")
        return name


def _imported(source: SourceFile, *places: cst.CSTNode) -> dict[str, Origin]:
    """What the imports in these places bind, by name."""
    found: dict[str, Origin] = {}
    for place in places:
        for statement in source.all(cst.Import, place):
            for alias in statement.names:
                whole = dotted(alias.name)
                if alias.asname is not None:
                    found[_bound(alias)] = (whole, "")
                else:
                    found[whole.split(".")[0]] = (whole.split(".")[0], "")
        for origin in source.all(cst.ImportFrom, place):
            if not isinstance(origin.names, cst.ImportStar):
                module = "." * len(origin.relative) + (dotted(origin.module) if origin.module is not None else "")
                found |= {_bound(alias): (module, dotted(alias.name)) for alias in origin.names}
    return found


def _bound(alias: cst.ImportAlias) -> str:
    return dotted(alias.name if alias.asname is None else alias.asname.name)


def _function(name: str, level: str) -> str:
    code = CODE[level]
    parameters = f"source, {code.parameter}" if code.parameter else "source"
    return FUNCTION.format(name=name, parameters=parameters, decoder=level, expression=code.expression)


def _opened(call: cst.Call) -> cst.Arg | None:
    """What is opened, where the call is ``Image.open(x).convert("RGB")``."""
    inner = call.func.value if isinstance(call.func, cst.Attribute) else None
    if not isinstance(inner, cst.Call) or not dotted(inner.func).endswith("Image.open") or len(inner.args) != 1:
        return None
    mode = call.args[0].value if len(call.args) == 1 else None
    if not isinstance(mode, cst.SimpleString) or mode.evaluated_value != "RGB" or inner.args[0].star:
        return None
    return inner.args[0]


def _rewritten(call: cst.Call, name: str) -> cst.Call:
    opened = _opened(call)
    return with_argument(call, "loader", name) if opened is None else cst.Call(cst.Name(name), [cst.Arg(opened.value)])
