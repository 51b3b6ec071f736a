"""PD405: activations keep a copy of their input."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class InplaceActivation(TreatmentRule):
    """Activation modules without ``inplace=True``.

    What it measures
    ----------------
    Your step with the model's activations working in place, switched on and off in your running loop, and the most memory that
    a step holds with and without.

    Why it costs time
    -----------------
    The input of a ReLU is not needed once its output is known. Overwriting it saves the memory of one activation per layer, and
    the memory traffic of writing the output elsewhere.

    Example
    -------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    Use instead
    -----------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))

    When this is wrong
    ------------------
    If the input is used again, for example by a residual branch that starts before the activation: then the numbers change,
    mostly without an error. If a layer needs the overwritten tensor for backward, torch raises an error.
    """

    code = "PD405"
    slug = "inplace-activation"
    needs = ("step.time", "memory.peak", "inplace_activation.speedup")
    effort = "a few lines"
    treatment = "inplace_activation"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Memory with and without."""
        return seen.memory_of(arm)
