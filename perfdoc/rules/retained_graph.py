"""PD404: the autograd graphs of past steps are kept."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis import memory
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class RetainedGraph(Rule):
    """A loss (or another result) is kept together with its graph, so memory grows with every step.

    What it measures
    ----------------
    How many autograd nodes the tensors of your script still hold at the start and at the end of some ordinary steps. A loss
    that is overwritten in every step holds one graph; a sum of losses holds one more with every step. The variable or
    attribute that holds them is looked up among all living objects, and the line that fills it in your source. The memory of
    the process is read at the ends of the blocks of your own settings.

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
    names_cause = "memory"
    needs = ("step.time", "graph.nodes", "graph.holder")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the nodes that are held grew over every step that was watched."""
        nodes = seen.measurement("graph.nodes")
        if nodes is None or len(nodes.samples) < 2:
            return None
        steps = list(zip(nodes.samples[::2], nodes.samples[1::2], strict=False))
        if any(after <= before for before, after in steps):
            return None
        before, after = steps[-1]
        holders = sorted(seen.measurements("graph.holder"), key=lambda m: not m.conditions.get("fed"))
        holder = holders[0].conditions if holders else {}
        site, fed = str(holder.get("site", "")), str(holder.get("fed", ""))
        rate = memory.rate_words(seen) or memory.rough_rate(seen)
        title = f"memory grows by {rate}: " if rate else ""
        if holder:
            title += f"{holder['name']} keeps the autograd graphs of all steps"
            title += f" ({site}, fed at {fed})" if fed and fed != site else ""
        else:
            title += (f"the graph that your script holds grew from {before:.0f} to {after:.0f} nodes in one step"
                      + ("" if rate else ": memory will run out"))
        evidence = [f"{after - before:.0f} autograd nodes more in a step, counted at its two ends; nothing was switched",
                    *memory.full(seen)]
        fix = "keep loss.detach() or loss.item(), not loss"
        if fed and fed != site:
            fix = f"keep .detach() or .item() of what is given at {site}, or compute it under torch.no_grad() at {fed}"
        return Finding(self.code, self.slug, title, site or fed, "hurts", fix, tuple(evidence), effort=self.effort)
