"""PD307: gradients are filled with zeros between steps."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class ZeroedGradients(TreatmentRule):
    """``zero_grad(set_to_none=False)``: gradients are overwritten with zeros instead of being dropped.

    What it measures
    ----------------
    Your step with ``set_to_none=True`` (the default since torch 2.0), switched in your running loop. Said only where zeros were
    seen to be asked for.

    Why it costs time
    -----------------
    Zeros are written, then read and added to by backward. A gradient that is None is simply written by backward.

    Example
    -------
    ::

        optimizer.zero_grad(set_to_none=False)

    Use instead
    -----------
    ::

        optimizer.zero_grad()

    When this is wrong
    ------------------
    Code that reads ``p.grad`` of parameters without gradient expects a tensor; an optimizer with momentum or weight decay
    treats a zero gradient differently from none.
    """

    code = "PD307"
    slug = "zeroed-gradients"
    needs = ("step.time", "zero_grad.speedup")
    treatment = "zero_grad"
