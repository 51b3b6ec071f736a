"""PD322: a line of the user's own code, outside of model and data, that takes much of the step."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.line_finding import about
from perfdoc.diagnosis.rule import Rule

INSTEAD = (
    ("gc.collect", "leave it out: what is no longer used is freed without it. After loading, gc.freeze() makes it cheap"),
    ("copy.deepcopy", "keep the copies and update them in place: torch._foreach_lerp_, or torch.optim.swa_utils.AveragedModel"),
    ("time.sleep", "leave it out"),
    ("matplotlib", "draw once in some hundred steps, or after training"),
    ("sklearn", "compute the metric once an epoch"),
    ("numpy", "do it with torch on the tensors as they are, or once in some steps"),
)
"""What to do about what most of the time is spent in, by its name."""


class SlowLine(Rule):
    """A line of the loop itself (a metric, a moving average, logging, clean-up) that takes much of the step.

    What it measures
    ----------------
    The stacks of the training process, sampled some hundred times a second while your loop runs as you wrote it: what is
    neither the loader, nor the model's forward and backward pass, nor the optimizer.

    Why it costs time
    -----------------
    What stands in the loop runs every step. Python loops over parameters, copies of the whole state, a collection of all
    objects or a metric over all that was seen so far easily cost more than the model.

    Example
    -------
    ::

        for x, y in loader:
            loss = train_step(x, y)
            for mine, its in zip(teacher.parameters(), model.parameters()):
                mine.data = 0.999 * mine.data + 0.001 * its.data
            gc.collect()

    Use instead
    -----------
    ::

        for x, y in loader:
            loss = train_step(x, y)
            torch._foreach_lerp_(mine, its, 0.001)  # lists of parameters, made once

    When this is wrong
    ------------------
    The line may do what the training needs. Its ceiling says what could be won at most by doing it faster or less often.
    """

    code = "PD322"
    slug = "slow-line"
    needs = ("step.time",)
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding for the line outside of data and model that costs a step most."""
        found = seen.lines
        cause = next((c for c in found.causes if c.kind == "code" and c.phase != "data"), None) if found else None
        if cause is None:
            return None
        fix = next((advice for name, advice in INSTEAD if cause.what == name), "do it faster, for all at once, or less often")
        return about(self, seen, cause, fix)
