"""PD116: pictures that would fit into memory are decoded in every epoch."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UncachedPictures(TreatmentRule):
    """Every epoch decodes the same pictures again although they would fit into memory.

    What it measures
    ----------------
    Your step with decoded pictures kept in memory, as in every epoch after the first, in your running loop; tried with as
    many as are decoded in three seconds.

    Why it costs time
    -----------------
    Decoding gives the same result every time. A data set that fits into memory decoded needs it once; random transforms
    still run for every sample.

    Example
    -------
    ::

        image = Image.open(path).convert("RGB")

    Use instead
    -----------
    ::

        image = decoded[index].copy()  # filled in the first epoch

    When this is wrong
    ------------------
    With several workers each keeps its own copy unless the cache is shared. On a machine where memory is short the page
    cache is lost to it, and other things get slower.    """

    code = "PD116"
    slug = "uncached-pictures"
    needs = ("step.time", "cached_pictures.speedup")
    effort = "a few lines"
    treatment = "cached_pictures"
