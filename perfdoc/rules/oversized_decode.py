"""PD108: pictures are decoded far above the size used."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule
from perfdoc.loader_bench import samples as sample_answer


class OversizedDecode(TreatmentRule):
    """Pictures are decoded in full and then shrunk to a fraction.

    What it measures
    ----------------
    Your step with JPEGs decoded at 1/2, 1/4 or 1/8 of their size, twice the size used at least, inside your own data set while
    your loop runs; and how many pixels are decoded for one that is used.

    Why it costs time
    -----------------
    A photograph of 12 megapixels for an input of 224 pixels decodes 240 pixels for each one used. JPEG can be decoded at a
    fraction of its size for a fraction of the work. Storing the pictures smaller once saves reading them too, and is faster
    still.

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
    Random crops of a small part of the picture need its full resolution: with crops below a quarter of the picture they
    come out a little softer. Another resampling is another picture: measure accuracy once.    """

    code = "PD108"
    slug = "oversized-decode"
    needs = ("step.time", "sample.decoded_pixels", "sample.used_pixels", "scaled_decode.speedup")
    effort = "a few lines"
    treatment = "scaled_decode"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Pixels decoded for one that is used."""
        found = sample_answer.pixels(seen.capture.measurements)
        return [sample_answer.pixels_sentence(*found)] if found else []
