"""PD319: gradients that no optimizer uses."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class UnusedGradients(TreatmentRule):
    """Gradients are computed for parameters that no optimizer holds.

    What it measures
    ----------------
    Backward is followed to the parameters that it reaches, and these are compared with those that optimizers hold. Your step is
    measured with ``requires_grad`` off for the rest, switched on and off in your running loop. The trained parameters get the
    same gradients, which is checked. Parameters that your script updates by hand, or whose gradients it asks for, are left
    alone.

    Why it costs time
    -----------------
    ``model.eval()`` freezes nothing: it changes dropout and batch norm. As long as a parameter requires a gradient, the forward
    pass keeps what backward needs, and backward runs through the whole network. A frozen backbone costs about a third of that.

    Example
    -------
    ::

        backbone = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        backbone.eval()
        criterion(model(backbone(x)), y).backward()
        optimizer.step()

    Use instead
    -----------
    ::

        backbone = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        backbone.eval().requires_grad_(False)
        criterion(model(backbone(x)), y).backward()
        optimizer.step()

    When this is wrong
    ------------------
    If the script reads these gradients itself (a saliency map, a gradient norm), or gives the parameters to an optimizer later.
    If they were to be trained, and the optimizer was only made without them: then that is what to repair.
    """

    code = "PD319"
    slug = "unused-gradients"
    names_cause = "time"
    needs = ("step.time", "unused_gradients.speedup")
    treatment = "unused_gradients"

    def cause(self, seen: Evidence) -> str:
        """Whose gradients nobody uses."""
        offer = seen.offer(self.treatment)
        return offer.reason if offer is not None else ""

    def title(self, seen: Evidence, arm: str) -> str:
        """The cause, and what the step is without it."""
        effect, cause = seen.effect(arm), self.cause(seen)
        if effect is None or not effect.known or seen.verdict(arm) != "helps" or not cause:
            return super().title(seen, arm)
        return f"{cause}. Without, the step is {effect.speedup:.2f}x faster"
