"""PD113: torch.tensor copies arrays that could be shared."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word

LARGE = 0.1
"""Share of a sample's time from which the copy is spoken of."""


class CopiedArray(Rule):
    """``torch.tensor(array)`` copies an array that ``torch.from_numpy`` would share.

    What it measures
    ----------------
    How long a sample takes for ``torch.tensor`` of a numpy array, at each line of your own ``__getitem__`` and what it calls.

    Why it costs time
    -----------------
    ``torch.tensor`` always copies. ``torch.from_numpy`` and ``torch.as_tensor`` share the array's memory.

    Example
    -------
    ::

        class Points(Dataset):
            array = numpy.zeros((64, 500, 500), dtype=numpy.float32)
            __len__ = lambda self: 64
            def __getitem__(self, index):
                return torch.tensor(self.array[index])

        loader = DataLoader(Points(), batch_size=4)

    Use instead
    -----------
    ::

        class Points(Dataset):
            array = numpy.zeros((64, 500, 500), dtype=numpy.float32)
            __len__ = lambda self: 64
            def __getitem__(self, index):
                return torch.from_numpy(self.array[index])

        loader = DataLoader(Points(), batch_size=4)

    When this is wrong
    ------------------
    If the array is written to afterwards: the tensor would change with it. For arrays of a few numbers it makes no difference.
    """

    code = "PD113"
    slug = "copied-array"
    needs = ("sample.copied", "sample.time")
    effort = "one line"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding at the place that copies most, where that is a tenth of a sample or more."""
        sample = seen.measurement("sample.time")
        found = [m for m in seen.capture.measurements if isinstance(m, Measurement) and m.metric == "sample.copied"]
        if sample is None or not found:
            return None
        worst = max(found, key=lambda m: m.mean)
        if worst.mean < LARGE * sample.mean or not worth_a_word(worst.mean * seen.samples_a_step, seen):
            return None
        share = worst.mean / sample.mean
        title = f"torch.tensor copies an array for every sample: {worst.mean * 1e6:.3g} µs, {share:.0%} of its time"
        fix = "torch.from_numpy(array), or torch.as_tensor(array)"
        return Finding(self.code, self.slug, title, str(worst.conditions["site"]), "undecided", fix, effort=self.effort)
