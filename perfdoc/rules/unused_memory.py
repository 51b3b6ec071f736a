"""PD401: larger batches would process more samples a second."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class UnusedMemory(TreatmentRule):
    """A batch size below what the hardware is busy with.

    What it measures
    ----------------
    Your step with batches two and four times as large, made by your own loader in your running loop: samples a second, and the
    most memory a step holds. A batch that does not fit is survived and said.

    Why it costs time
    -----------------
    Small batches leave units idle and pay the fixed costs of a step (launches, optimizer, gradient traffic) per few samples.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=1)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=4)

    When this is wrong
    ------------------
    It changes the training: fewer steps an epoch with less noise each. Usual starting points are a learning rate times the
    same factor (SGD, Goyal et al. 2017) or its square root (Adam, Malladi et al. 2022), with a warm-up. perfdoc never puts
    it into a plan.
    """

    code = "PD401"
    slug = "unused-memory"
    needs = ("step.time", "memory.peak", "batch_size.speedup")
    effort = "a change of design"
    treatment = "batch_size"
    in_samples = True

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Memory by batch size, and what to do about the learning rate."""
        memory = seen.memory_of(*seen.arms_of(self.treatment))
        return [*memory, "changes the training: adapt the learning rate, and check the result"]
