"""PD114: a few samples take many times as long as the others."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word
from perfdoc.loader_bench import samples as sample_answer


class UnevenSamples(Rule):
    """A few samples take many times as long as the others, and the step waits for the batches that contain them.

    What it measures
    ----------------
    How long each of some dozen samples of your own data set takes. The slowest are made again, so that a stall of the machine
    is not mistaken for a slow sample.

    Why it costs time
    -----------------
    A batch is ready when its slowest sample is. Batches are delivered in order, so the batches after it wait too.

    Example
    -------
    ::

        class Uneven(Dataset):
            __len__ = lambda self: 64
            def __getitem__(self, index):
                return torch.randn(1200, 1200).sort().values if index == 5 else torch.randn(10, 10).sort().values

        loader = DataLoader(Uneven(), batch_size=1)

    Use instead
    -----------
    ::

        class Even(Dataset):
            __len__ = lambda self: 64
            def __getitem__(self, index):
                return torch.randn(100, 100).sort().values

        loader = DataLoader(Even(), batch_size=1)

    When this is wrong
    ------------------
    If the slow samples are needed as they are: then a larger ``prefetch_factor`` or ``in_order=False`` hides them.
    """

    code = "PD114"
    slug = "uneven-samples"
    needs = ("sample.time", "sample.slowest")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding that names the slow samples."""
        anatomy = sample_answer.read(seen.capture.measurements)
        if anatomy is None or not anatomy.uneven:
            return None
        worst = anatomy.uneven[0]
        if not worth_a_word(worst[2] - anatomy.median, seen):
            return None
        title = f"sample {worst[0]} takes {worst[2] * 1e3:.3g} ms, {worst[2] / anatomy.median:.0f} times the median"
        names = tuple(f"{index}: {took * 1e3:.3g} ms {path}".rstrip() for index, path, took in anatomy.uneven)
        fix = "look at these samples (size, format); prepare them once; or ride over them: prefetch_factor, in_order=False"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix, names, effort=self.effort)
