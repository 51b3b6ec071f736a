"""PD324: every step collects garbage, or waits, because the script says so."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class CleanupEveryStep(TreatmentRule):
    """``gc.collect()``, ``torch.cuda.empty_cache()`` or ``torch.cuda.synchronize()`` in every step.

    What it measures
    ----------------
    Your step with these calls left out, switched on and off in your running loop: only calls that your own code makes, with
    their lines, how often they are made and how long they take. After each stretch without collections one is made, and what
    it finds is counted: so many objects the calls had been there for. Where memory grows by a tenth of what is free, a
    collection is made after all, and the finding says so.

    Why it costs time
    -----------------
    A full collection walks every object that is alive, your data set's included: with a million of them it takes a tenth of a
    second or more, whether there is anything to free or not. Tensors are freed as soon as nothing refers to them, without it.
    ``empty_cache`` gives memory back to the driver, which the next step has to ask for again; ``synchronize`` lets the device
    run dry before the host queues more work.

    Example
    -------
    ::

        import gc
        criterion(model(x), y).backward()
        optimizer.step()
        gc.collect()

    Use instead
    -----------
    ::

        criterion(model(x), y).backward()
        optimizer.step()

    When this is wrong
    ------------------
    If the step makes reference cycles that hold large tensors: then collect every thousand steps, or after validation. Python's
    own collections are rare where many objects are alive. A clock around the step needs ``synchronize``; the training does not.
    """

    code = "PD324"
    slug = "cleanup-every-step"
    names_cause = "time"
    needs = ("step.time", "cleanup_calls.speedup")
    treatment = "cleanup_calls"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What the calls that were left out would have freed."""
        found, needed = seen.measurement("cleanup.objects"), seen.measurement("cleanup.needed")
        if found is None:
            return []
        said = [f"without it for a stretch of steps, a collection then found {max(found.samples):.0f} objects to free"]
        if needed is not None and needed.median:
            said.append(f"memory grew without it: {needed.median:.0f} collections were made after all")
        return said
