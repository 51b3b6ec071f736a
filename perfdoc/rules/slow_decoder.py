"""PD107: pictures are decoded by a slower library than need be."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule
from perfdoc.loader_bench import samples as sample_answer


class SlowDecoder(TreatmentRule):
    """JPEGs are decoded by a library that is not the fastest for these files.

    What it measures
    ----------------
    Your step with the decoders that are fastest on your own files. They are put behind ``PIL.Image.open``, ``cv2.imread`` or
    ``read_image`` inside your own data set and its workers while your loop runs. ``perfdoc bench-loader`` compares all decoders
    alone, and shows what each does to unusual and broken files.

    Why it costs time
    -----------------
    Decoding is often the most expensive part of a sample, and libraries differ by a factor of up to two. But the result has
    to be converted to what your transforms expect, and the step may be waiting for something else: a decoder that is 1.9x as
    fast may not make the step faster at all.

    Example
    -------
    ::

        image = Image.open(path).convert("RGB")

    Use instead
    -----------
    ::

        image = Image.fromarray(simplejpeg.decode_jpeg(open(path, "rb").read()))

    When this is wrong
    ------------------
    With files that are not JPEGs, CMYK pictures, EXIF orientation and truncated files: decoders differ in what they refuse
    and in what they return without an error.
    """

    code = "PD107"
    slug = "slow-decoder"
    needs = ("step.time", "sample.part", "image_decoder.speedup")
    effort = "a few lines"
    treatment = "image_decoder"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """How much of a sample decoding is."""
        anatomy = sample_answer.read(seen.capture.measurements)
        if anatomy is None:
            return []
        return [f"decoding is {anatomy.share('decode'):.0%} of a sample's {anatomy.median * 1e3:.3g} ms"]
