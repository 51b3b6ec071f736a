"""PD107: pictures are decoded by a slower library than need be."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule
from perfdoc.loader_bench import samples as sample_answer


class SlowDecoder(TreatmentRule):
    """JPEGs are decoded by a library that another one would beat.

    What it measures
    ----------------
    The decoders that are fastest on your own files, swapped in behind ``PIL.Image.open``, ``cv2.imread`` or ``read_image``
    inside your own data set, in the workers too, while your loop runs. What is judged is the step. ``perfdoc bench-loader``
    compares all decoders alone, and says what each does to unusual and broken files.

    Why it costs time
    -----------------
    Decoding is often the most expensive part of a sample, and libraries differ by up to twice. But what they deliver must
    be turned into what your transforms take, and the step may wait for something else: a decoder that is 1.9x as fast can
    leave the step as it is.

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
    Files that are no JPEGs, CMYK, EXIF orientation, files that were cut off: decoders differ in what they refuse and in
    what they return without a word.    """

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
