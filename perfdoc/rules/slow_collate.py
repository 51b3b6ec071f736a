"""PD112: putting batches together and handing them over takes long."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule
from perfdoc.loader_bench import samples as sample_answer

LARGE = 1 / 3
"""Share of the loader's time from which collating and sending are spoken of."""
FELT = 0.02
"""Share of the step below which nothing of it could be felt."""


class SlowCollate(Rule):
    """Collating and sending a batch takes a large part of the loader's time.

    What it measures
    ----------------
    How long it takes to collate a batch with your own ``collate_fn``, and to send it from a worker to the training process.

    Why it costs time
    -----------------
    In batches of many small Python objects each object is pickled. Tensors go through shared memory, which is fast, but each
    tensor takes a file descriptor and a message. Large samples are copied when they are stacked.

    Example
    -------
    ::

        class Strings(Dataset):
            __len__ = lambda self: 64
            __getitem__ = lambda self, i: {f"key {n}": torch.zeros(1) for n in range(200)}

        loader = DataLoader(Strings(), batch_size=32, num_workers=1)

    Use instead
    -----------
    ::

        class Packed(Dataset):
            data = torch.randn(64, 300, 300)
            __len__ = lambda self: 64
            __getitem__ = lambda self, i: self.data[i].sort().values

        loader = DataLoader(Packed(), batch_size=32, num_workers=1)

    When this is wrong
    ------------------
    If samples are so cheap that collating is all the work there is. Then make whole batches at once (``__getitems__``, or a
    sampler that yields batches).
    """

    code = "PD112"
    slug = "slow-collate"
    needs = ("sample.collate", "sample.transfer", "sample.time", "sample.bytes")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where collating and sending take a third of the loader's time or more, and are felt in the step."""
        anatomy, size = sample_answer.read(seen.capture.measurements), seen.measurement("sample.bytes")
        if anatomy is None or size is None:
            return None
        share = anatomy.share("collate") + anatomy.share("transfer")
        batch = seen.measurement("sample.collate")
        samples = float(batch.conditions["batch_size"]) if batch is not None else 1.0
        seconds = {p.part: p.seconds * samples for p in anatomy.parts if p.part in ("collate", "transfer")}
        if share < LARGE or sum(seconds.values()) < FELT * seen.step_seconds:
            return None
        took = sum(seconds.values()) * 1e3
        title = f"collating a batch and sending it takes {took:.3g} ms, {share:.0%} of the loader's time"
        evidence = [f"{sample_answer.WORDS[part]}: {value * 1e3:.3g} ms a batch" for part, value in seconds.items()]
        evidence.append(f"{size.conditions['tensors']} tensors a batch, {size.median / 2**10:.3g} KiB a sample")
        fix = "fewer and larger tensors a sample; convert to tensors in __getitem__; make whole batches at once"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix, tuple(evidence), effort=self.effort)
