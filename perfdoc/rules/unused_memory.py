"""PD401: larger batches would process more samples a second."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class UnusedMemory(TreatmentRule):
    """A batch size that is too small to keep the hardware busy.

    What it measures
    ----------------
    Samples per second with batches two and four times as large, made by your own loader in your running loop, and the most
    memory that a step holds. If a batch does not fit into memory, the scan goes on and reports that.

    Why it costs time
    -----------------
    Small batches leave parts of the hardware idle, and the fixed costs of a step (kernel launches, optimizer, exchange of
    gradients) are spread over few samples.

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
    It changes the training: fewer steps an epoch, with less noise in each. Usual starting points are to multiply the learning
    rate by the same factor (SGD, Goyal et al. 2017) or by its square root (Adam, Malladi et al. 2022), with a warm-up. perfdoc
    never puts a larger batch into a plan.
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
