"""One cell of the decoder comparison, a process of its own: ``python -m perfdoc.decoder_bench.worker SPECIFICATION``.

Prints one line of JSON. ``speed``: seconds a file of every pass over the files. ``quality``: how far the pixels are from
those of Pillow, and what becomes of unusual and broken files.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from perfdoc.core.decoder import Decoder
from perfdoc.core.typed_json import from_json, to_json
from perfdoc.decoder_bench.messages import Answer, Asked

MOST_FILES_COMPARED = 12


def main() -> None:
    """Run the cell that the JSON document in ``argv[1]`` specifies."""
    asked = from_json(Asked, json.loads(sys.argv[1]))
    decoder = _decoder(asked.module)
    try:
        decoder.load(asked.single_thread)
    except (ImportError, OSError) as error:
        print(json.dumps(to_json(Answer(missing=f"{error}"))))
        return
    datas = [Path(asked.folder, name).read_bytes() for name in asked.files]
    print(json.dumps(to_json(speed(decoder, datas, asked) if asked.mode == "speed" else quality(decoder, datas))))


def _decoder(module_name: str) -> Decoder:
    """The decoder that a module defines. Only that module is imported: most decoders do not need torch."""
    for member in vars(importlib.import_module(module_name)).values():
        if isinstance(member, type) and issubclass(member, Decoder) and member.__module__ == module_name:
            return member()
    raise LookupError(f"{module_name} defines no decoder")


def speed(decoder: Decoder, datas: list[bytes], asked: Asked) -> Answer:
    """Pass over the files again and again for ``asked.seconds``, beginning at the moment that all cells of a row begin."""
    def run() -> None:
        if decoder.scaled:
            for data in datas:
                decoder.decode_small(data, asked.side)
        else:
            decoder.decode_all(datas)

    run()
    time.sleep(max(0.0, asked.start - time.time()))
    seconds: list[float] = []
    began = perf_counter()
    while not seconds or perf_counter() - began < asked.seconds:
        start = perf_counter()
        run()
        seconds.append((perf_counter() - start) / len(datas))
    return Answer(seconds=seconds)


def quality(decoder: Decoder, datas: list[bytes]) -> Answer:
    """Which files it decodes, the largest and the mean difference to Pillow in levels of 255, and its ways with odd files."""
    import numpy

    decodes, largest, mean = [], [], []
    reference = _pillow()
    for place, data in enumerate(datas):
        try:
            picture = numpy.asarray(decoder.decode(data))
        except Exception:  # whatever a library raises: the file is not common to all
            continue
        decodes.append(place)
        if place < MOST_FILES_COMPARED and reference is not None:
            wanted = reference(data)
            if wanted is not None and wanted.shape == picture.shape:
                off = numpy.abs(wanted.astype(numpy.int16) - picture.astype(numpy.int16))
                largest.append(float(off.max()))
                mean.append(float(off.mean()))
    return Answer(decodes=decodes, largest=largest, mean=mean, scaled=decoder.scaled, cases=_cases(decoder, reference))


def _pillow() -> Callable[[bytes], Any] | None:
    try:
        import numpy
        from PIL import Image
    except ImportError:
        return None

    def decode(data: bytes) -> Any:
        try:
            with Image.open(io.BytesIO(data)) as image:
                return numpy.asarray(image.convert("RGB"))
        except Exception:  # Pillow has many ways to refuse a file
            return None

    return decode


def odd_files() -> dict[str, bytes]:
    """Files that decoders differ on, made with Pillow; by name."""
    import numpy
    from PIL import Image

    rng = numpy.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=numpy.uint8)).resize((96, 64))

    def saved(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **({"quality": 90} if kind == "JPEG" else {}), **options)
        return out.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    plain = saved(coarse)
    scan = plain.index(b"\xff\xda")
    broken = bytearray(plain)
    broken[scan + 60 : scan + 90] = bytes(30)
    return {
        "EXIF orientation": saved(coarse, exif=turned), "grayscale": saved(coarse.convert("L")),
        "CMYK": saved(coarse.convert("CMYK")), "progressive": saved(coarse, progressive=True),
        "16-bit PNG": saved(Image.fromarray(rng.integers(0, 65535, (32, 48), dtype=numpy.uint16)), "PNG"),
        "PNG named .jpg": saved(coarse, "PNG"), "cut off": plain[: scan + (len(plain) - scan) // 2], "corrupt": bytes(broken),
    }


def _cases(decoder: Decoder, reference: Callable[[bytes], Any] | None) -> dict[str, str]:
    if reference is None:
        return {}
    return {name: outcome(decoder, name, data, reference) for name, data in odd_files().items()}


def outcome(decoder: Decoder, name: str, data: bytes, reference: Callable[[bytes], Any]) -> str:
    """What becomes of an odd file, in a few words."""
    import numpy

    wanted = reference(data)
    try:
        picture = numpy.asarray(decoder.decode(data))
    except Exception as error:  # the kind of it is the answer
        return f"raises {type(error).__name__}"
    broken = name in ("cut off", "corrupt")
    if wanted is None:
        return "returns a picture"
    if picture.dtype != numpy.uint8:
        return f"returns {picture.dtype}"
    if picture.shape != wanted.shape:
        return "turned by EXIF" if picture.shape[:2] == wanted.shape[1::-1] else f"shape {tuple(picture.shape)}"
    off = numpy.abs(picture.astype(numpy.int16) - wanted.astype(numpy.int16))
    if broken:
        return "returns a picture, as PIL does"
    if not off.max():
        return "same pixels"
    far = off.mean() > 16
    return f"other picture (mean {off.mean():.0f} of 255)" if far else f"off by up to {off.max()} of 255"


if __name__ == "__main__":
    main()
