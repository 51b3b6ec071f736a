"""PD308: a bias that batch norm takes out again."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class BiasBeforeNorm(Rule):
    """Layers with a bias whose output goes straight into a batch norm.

    What it measures
    ----------------
    One step of your loop is watched: which layers pass their output, unchanged, to a batch norm in training mode, and how
    large the gradients of their biases are compared with those of their weights.

    Why it costs time
    -----------------
    Batch norm subtracts the mean of every channel, and with it any constant that was added before. So the bias changes
    nothing and its gradient is zero, apart from rounding. Still it is added in forward, summed over the batch in backward, and
    updated by the optimizer. Removing it saves a little.

    Example
    -------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    Use instead
    -----------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    When this is wrong
    ------------------
    If a checkpoint with biases has to be loaded. Batch norm in eval mode, layer norm and group norm do not cancel a bias.
    """

    code = "PD308"
    slug = "bias-before-norm"
    needs = ("step.time", "bias.before_norm", "bias.dead_gradient")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where there are such layers. Its effect on the step was not measured, so it is never ranked above any."""
        count = seen.measurement("bias.before_norm")
        if count is None or not count.median:
            return None
        layers = str(count.conditions.get("layers", ""))
        sizes = seen.measurement("bias.dead_gradient")
        evidence = [f"layers: {layers}"]
        if sizes is not None:
            evidence.append(f"gradients of these biases: at most {max(sizes.samples):.1e} of their weights' (root mean square)")
        number = int(count.median)
        title = f"{number} {'layer has' if number == 1 else 'layers have'} a bias that the batch norm behind takes out again"
        return Finding(
            self.code, self.slug, title, "", "undecided", "bias=False in these layers (seen in the executed graph; "
            "its effect on the step was not measured, it is small)", tuple(evidence), effort=self.effort,
        )
