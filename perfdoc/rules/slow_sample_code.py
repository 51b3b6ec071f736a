"""PD117: a line of the data set's own code that the time goes to."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.line_finding import about
from perfdoc.diagnosis.rule import Rule

INSTEAD = (
    ("pandas", "make the columns that are used one tensor in __init__ and index that: any call of pandas costs some 0.1 ms"),
    ("h5py", "open the file once a worker, and write it with chunks of what one sample reads"),
    ("tokenizers", "tokenize once and keep the ids, or tokenize a whole batch at once"),
    ("transformers", "tokenize once and keep the ids, or tokenize a whole batch at once"),
    ("torch.tensor", "torch.from_numpy(numpy.stack(arrays)): torch.tensor of a list takes every number as a Python object"),
    ("torch.stack", "one index for the whole batch in place of one for each sample"),
    ("re", "do it once, before training, and keep the result"),
    ("json", "parse once, before training, and keep the result"),
    ("PIL", "see PD107 and PD108: decode faster, or smaller"),
)
"""What to do about what most of the time is spent in, by its name."""


class SlowSampleCode(Rule):
    """A line of the data set, of a transform, of the collate function or of a sampler that takes much of the step.

    What it measures
    ----------------
    The stacks of the training process and of the loader's workers, sampled some hundred times a second while your loop runs as
    you wrote it. Where the training process waits for workers, its wait is divided by what the workers do. The share of the
    step has a 95% interval from stretches of the look. The ceiling says how fast a step could be at most if the line cost
    nothing.

    Why it costs time
    -----------------
    A sample is made thousands of times an epoch, so a call that takes a tenth of a millisecond (one row of a table, one file
    that is opened, one pattern that is searched) is soon the larger part of a step. Workers divide it by their number, at most
    by the number of cores.

    Example
    -------
    ::

        def __getitem__(self, index):
            row = self.frame.iloc[index]
            return torch.tensor(row[self.columns].astype(float).values)

    Use instead
    -----------
    ::

        def __init__(self, frame):
            self.values = torch.from_numpy(frame[self.columns].to_numpy(dtype="float32"))

        def __getitem__(self, index):
            return self.values[index]

    When this is wrong
    ------------------
    The ceiling is a bound: work that replaces the line costs something, too. A line that only waits for a disk or a network is
    named as well; see PD110.
    """

    code = "PD117"
    slug = "slow-sample-code"
    needs = ("step.time",)
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding for the line of data code that costs a step most."""
        found = seen.lines
        cause = next((c for c in found.causes if c.kind == "code" and c.phase == "data"), None) if found else None
        return None if cause is None else about(self, seen, cause, instead(cause.what))


def instead(what: str) -> str:
    """What to do about code that spends its time in ``what``."""
    known = next((advice for name, advice in INSTEAD if what == name), "")
    return known or "do once, before training, what is the same every time; do for a whole batch what can be done at once"
