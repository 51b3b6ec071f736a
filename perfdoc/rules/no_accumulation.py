"""PD403: a larger effective batch without its memory."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class NoAccumulation(TreatmentRule):
    """An optimizer step after every batch, although the gradients of several batches could be added up first.

    What it measures
    ----------------
    Samples per second with the optimizer stepping only after every second or fourth batch, switched on and off in your running
    loop. Unlike a larger batch, this needs no more memory.

    Why it costs time
    -----------------
    The optimizer reads and writes every parameter, its gradient and its state. With small batches that is a large share of
    the step. With several GPUs, the exchange of gradients is saved too if all batches but the last use ``no_sync()``.

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
    It changes the training: the effective batch is larger and there are fewer steps, so the learning rate has to be chosen
    again, as for a larger batch. Batch norm still sees the small batches. If memory allows it, a larger batch is faster.
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
