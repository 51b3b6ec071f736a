"""PD403: a larger effective batch without its memory."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class NoAccumulation(TreatmentRule):
    """An optimizer step after every batch, where gradients of several could be added up first.

    What it measures
    ----------------
    Your step with the optimizer stepping only every second or fourth batch, switched in your running loop: samples a second.
    The memory of a step stays what it is, which is what sets it apart from a larger batch.

    Why it costs time
    -----------------
    The optimizer reads and writes every parameter, its gradient and its state. With small batches that is a large share of
    the step. With several GPUs the exchange of gradients is saved too, if ``no_sync()`` is used for all batches but the last.

    Example
    -------
    ::

        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    Use instead
    -----------
    ::

        for number, (x, y) in enumerate(loader, 1):
            (criterion(model(x), y) / 4).backward()
            if number % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    When this is wrong
    ------------------
    It changes the training: the effective batch is larger, steps are fewer; the learning rate is to be chosen anew, as for a
    larger batch. Batch norm still sees the small batches. Where memory allows it, the larger batch itself is faster.
    """

    code = "PD403"
    slug = "no-accumulation"
    needs = ("step.time", "gradient_accumulation.speedup")
    effort = "a few lines"
    treatment = "gradient_accumulation"
    in_samples = True

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What it means for the training."""
        return ["changes the training: a larger effective batch; adapt the learning rate, and check the result"]
