"""PD404: the autograd graphs of past steps are kept."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class RetainedGraph(Rule):
    """A loss (or another result) is kept together with its graph, so memory grows with every step.

    What it measures
    ----------------
    How many autograd nodes the tensors of your script still hold at the start and at the end of one ordinary step. A loss that
    is overwritten in every step holds one graph; a sum of losses holds one more with every step.

    Why it costs time
    -----------------
    Every node keeps the tensors that its backward would need, so the activations of all past steps stay in memory until
    it runs out.

    Example
    -------
    ::

        loss = criterion(model(x), y)
        total = total + loss

    Use instead
    -----------
    ::

        loss = criterion(model(x), y)
        total = total + loss.detach()

    When this is wrong
    ------------------
    Truncated backpropagation through time keeps the graphs of a few steps on purpose; there they do not grow without end.
    """

    code = "PD404"
    slug = "retained-graph"
    needs = ("step.time", "graph.nodes")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the nodes that are held grew over the watched step."""
        nodes = seen.measurement("graph.nodes")
        if nodes is None or len(nodes.samples) != 2:
            return None
        before, after = nodes.samples
        if after <= before:
            return None
        title = f"the graph that your script holds grew from {before:.0f} to {after:.0f} nodes in one step: memory will run out"
        return Finding(
            self.code, self.slug, title, "", "hurts", "keep loss.detach() or loss.item(), not loss",
            ("counted at the two ends of one step; nothing was switched",), effort=self.effort,
        )
