"""PD116: pictures that would fit into memory are decoded in every epoch."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class UncachedPictures(TreatmentRule):
    """Every epoch decodes the same pictures again, although the decoded pictures would fit into memory.

    What it measures
    ----------------
    Your step with decoded pictures kept in memory, as in every epoch after the first, switched on and off in your running loop.
    It is tried with as many pictures as can be decoded in three seconds.

    Why it costs time
    -----------------
    Decoding gives the same result every time. If all decoded pictures fit into memory, each has to be decoded only once.
    Random transforms still run for every sample.

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
    With several workers, each keeps its own copy unless the cache is shared. If memory is short, the system has less left
    for its page cache, and other things get slower.
    """

    code = "PD116"
    slug = "uncached-pictures"
    needs = ("step.time", "cached_pictures.speedup")
    effort = "a few lines"
    treatment = "cached_pictures"
