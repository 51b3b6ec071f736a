"""PD202: the host waits for copies to the device."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class BlockingCopy(TreatmentRule):
    """Batches are copied to the GPU while the host waits.

    What it measures
    ----------------
    Your step on CUDA with copies from pinned memory that the host does not wait for, switched on and off in your running loop.
    Without a GPU this cannot be tested.

    Why it costs time
    -----------------
    A copy from ordinary (pageable) memory goes through a staging buffer, and the host waits until it is done. Meanwhile no
    kernel is queued. From pinned memory, and with ``non_blocking=True``, the copy runs while the host goes on.

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
    Copies from the GPU to the host: they must be complete before they are read. Batches of a few kilobytes gain nothing.
    """

    code = "PD202"
    slug = "blocking-copy"
    needs = ("step.time", "step.transfer", "non_blocking_copy.speedup")
    effort = "a few lines"
    treatment = "non_blocking_copy"
