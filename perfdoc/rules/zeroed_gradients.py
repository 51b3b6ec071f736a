"""PD307: gradients are filled with zeros between steps."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class ZeroedGradients(TreatmentRule):
    """``zero_grad(set_to_none=False)``: gradients are overwritten with zeros instead of being dropped.

    What it measures
    ----------------
    Your step with ``set_to_none=True`` (the default since torch 2.0), switched in your running loop. Reported only if your
    script was seen to ask for zeros.

    Why it costs time
    -----------------
    Zeros are written first; then backward reads them and adds to them. If the gradient is None, backward only writes it.

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
    If code reads ``p.grad`` of parameters that got no gradient and expects a tensor. An optimizer with momentum or weight decay
    treats a gradient of zero differently from none.
    """

    code = "PD307"
    slug = "zeroed-gradients"
    needs = ("step.time", "zero_grad.speedup")
    treatment = "zero_grad"
