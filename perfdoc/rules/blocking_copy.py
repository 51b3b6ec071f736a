"""PD202: the host waits for copies to the device."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class BlockingCopy(TreatmentRule):
    """Batches are copied to the GPU with the host waiting.

    What it measures
    ----------------
    Your step on CUDA with copies from pinned memory that do not block the host, switched in your running loop. Without a GPU it
    is untestable.

    Why it costs time
    -----------------
    A copy from pageable memory goes through a staging buffer and holds the host until it is done; meanwhile no kernel is
    queued. From pinned memory, and with ``non_blocking=True``, the copy runs while the host goes on.

    Example
    -------
    ::

        x = x.to(device)

    Use instead
    -----------
    ::

        x = x.pin_memory().to(device, non_blocking=True) if device == "cuda" else x.to(device)

    When this is wrong
    ------------------
    Copies back to the host must be waited for before they are read. Batches of a few kilobytes gain nothing.
    """

    code = "PD202"
    slug = "blocking-copy"
    needs = ("step.time", "step.transfer", "non_blocking_copy.speedup")
    effort = "a few lines"
    treatment = "non_blocking_copy"
