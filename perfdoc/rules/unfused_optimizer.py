"""PD306: the optimizer updates parameter by parameter."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class UnfusedOptimizer(TreatmentRule):
    """An optimizer that does not use the fastest of torch's implementations (``foreach``, ``fused``).

    What it measures
    ----------------
    Your step with ``foreach=True`` and ``fused=True`` of torch's own optimizers, switched on and off in your running loop.

    Why it costs time
    -----------------
    An update has to read every parameter, gradient and moment only once, but a loop over the parameters starts a dozen small
    kernels for each. ``foreach`` starts each kernel for all parameters together; ``fused`` does the whole update in one.

    Example
    -------
    ::

        optimizer = torch.optim.AdamW(model.parameters())

    Use instead
    -----------
    ::

        optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    When this is wrong
    ------------------
    If the optimizer takes a few per cent of the step, there is little to gain: see its share in the report. ``foreach`` needs
    memory for temporary tensors as large as the parameters.
    """

    code = "PD306"
    slug = "unfused-optimizer"
    needs = ("step.time", "step.optimizer", "optimizer_implementation.speedup")
    treatment = "optimizer_implementation"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """The share of the step that the optimizer takes: the most there is to win."""
        optimizer, step = seen.measurement("step.optimizer"), seen.measurement("step.time")
        return [f"the optimizer takes {optimizer.mean / step.mean:.0%} of the step"] if optimizer and step else []
