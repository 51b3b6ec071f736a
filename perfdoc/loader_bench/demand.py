"""How many batches a second a scanned step takes: the demand that a loader has to meet."""

from __future__ import annotations

import statistics

from perfdoc.capture.document import Capture
from perfdoc.core.measurement import Measurement
from perfdoc.core.treatment import config_from_id


def demand_of(capture: Capture) -> float | None:
    """Batches a second that the scanned step takes where it never waits for them; None without a loader or steps.

    From blocks on a cached batch (the ceiling) where there were any, else the step's time without its wait.
    """
    loaders = capture.loop.loaders if capture.loop else []
    if not loaders:
        return None
    ceilings = {offer.slug for offer in capture.offers if offer.role == "ceiling"}
    cached = [b.pace for b in capture.blocks if b.count and ceilings & set(config_from_id(b.arm))]
    if cached:
        return float(loaders[0].batches_a_step / statistics.median(cached))
    found = {m.metric: m for m in capture.measurements if isinstance(m, Measurement)}
    step, data = found.get("step.time"), found.get("step.data")
    if step is None or data is None:
        return None
    computing = [whole - wait for whole, wait in zip(step.samples, data.samples, strict=True)]
    return float(loaders[0].batches_a_step / statistics.median(computing))
