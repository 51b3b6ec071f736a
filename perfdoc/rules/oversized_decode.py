"""PD108: pictures are decoded far above the size used."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule
from perfdoc.loader_bench import samples as sample_answer


class OversizedDecode(TreatmentRule):
    """Pictures are decoded at full size and then shrunk to a fraction of it.

    What it measures
    ----------------
    Your step with JPEGs decoded at 1/2, 1/4 or 1/8 of their size, but at least twice the size that is used, inside your own
    data set while your loop runs. And how many pixels are decoded for each pixel that is used.

    Why it costs time
    -----------------
    From a photograph of 12 megapixels for an input of 224x224, about 240 pixels are decoded for each one used. A JPEG can be
    decoded at a fraction of its size with a fraction of the work. Storing smaller pictures once is faster still, because it
    saves reading too.

    Example
    -------
    ::

        image = Image.open(path).convert("RGB")

    Use instead
    -----------
    ::

        image = Image.open(path)
        image.draft("RGB", (448, 448))  # twice the size used; or resize the files once
        image = image.convert("RGB")

    When this is wrong
    ------------------
    Random crops of a small part of the picture need its full resolution: crops below a quarter of the picture get a little
    softer. The pixels are not exactly the same, so check the accuracy once.
    """

    code = "PD108"
    slug = "oversized-decode"
    needs = ("step.time", "sample.decoded_pixels", "sample.used_pixels", "scaled_decode.speedup")
    effort = "a few lines"
    treatment = "scaled_decode"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Pixels decoded for one that is used."""
        found = sample_answer.pixels(seen.capture.measurements)
        return [sample_answer.pixels_sentence(*found)] if found else []
