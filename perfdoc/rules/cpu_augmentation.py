"""PD109: transforms on the CPU take most of a sample."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word
from perfdoc.loader_bench import samples as sample_answer

LARGE = 0.25
"""Share of a sample's time from which a transform is spoken of."""
ITS_LINE = 0.5
"""Share of the wait from which a line of the user's own tells it."""
WAITING = 0.05
"""Share of the step that must be spent waiting for data."""


class CpuAugmentation(Rule):
    """One transform takes a large part of every sample's time.

    What it measures
    ----------------
    How long each transform takes, by its name, inside your own ``__getitem__``, and how long the step waits for data.

    Why it costs time
    -----------------
    Random crops, colour changes and normalisation of PIL images run on one core, one sample after the other. For a whole
    batch at once, on tensors, on the GPU or in DALI, they take a fraction of that time.

    Example
    -------
    ::

        class Sorted(Dataset):
            transform = staticmethod(lambda x: x.sort().values.sort(dim=0).values)
            data = torch.randn(32, 400, 400)
            __len__ = lambda self: 32
            __getitem__ = lambda self, i: self.transform(self.data[i])

        dataset = Sorted()
        dataset.transform = dataset.transform
        loader = DataLoader(dataset, batch_size=4)

    Use instead
    -----------
    ::

        class Plain(Dataset):
            data = torch.randn(32, 400, 400)
            __len__ = lambda self: 32
            __getitem__ = lambda self, i: self.data[i]

        loader = DataLoader(Plain(), batch_size=4)

    When this is wrong
    ------------------
    If the step never waits for data: then workers hide the transforms, which only cost the cores that they use. On a machine
    that trains on the CPU the model needs these cores itself.
    """

    code = "PD109"
    slug = "cpu-augmentation"
    names_cause = "time"
    needs = ("sample.part", "sample.time", "step.data", "step.time")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the step waits for data and one transform takes a quarter of a sample or more."""
        anatomy = sample_answer.read(seen.capture.measurements)
        data, step = seen.measurement("step.data"), seen.measurement("step.time")
        if anatomy is None or data is None or step is None or data.mean < WAITING * step.mean:
            return None
        top = max((p for p in anatomy.parts if p.part == "transform"), key=lambda p: p.seconds, default=None)
        if top is None or top.share < LARGE or not worth_a_word(top.seconds * seen.samples_a_step, seen):
            return None
        # A step that waits for a transform of the user's own is told at that one's line.
        own = [] if seen.lines is None else [c for c in seen.lines.causes if c.kind == "code" and c.phase == "data"]
        told = any(cause.seconds > ITS_LINE * data.mean for cause in own)
        saved = 0.0 if told else min(data.mean, top.seconds * seen.samples_a_step)
        title = f"{top.name} takes {top.seconds * 1e3:.3g} ms of every sample, {top.share:.0%} of its time"
        if saved > 0:
            title += f": without it a step would be at most {1 / max(0.01, 1 - saved / step.mean):.2g}x faster"
        fix = "transform tensors (torchvision.transforms.v2), a whole batch at a time, on the GPU, or with DALI"
        wait = f"the step waits {data.mean * 1e3:.3g} ms of {step.mean * 1e3:.3g} ms for data"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix, (wait, anatomy.sentence),
                       effort=self.effort, seconds_saved_a_step=saved)
