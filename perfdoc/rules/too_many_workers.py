"""PD103: workers that cost step time, or memory and start-up for nothing."""

from __future__ import annotations

from dataclasses import replace

from perfdoc.core.finding import Finding
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, best_arm, describe


class TooManyWorkers(Rule):
    """More DataLoader workers than help.

    What it measures
    ----------------
    Your step with fewer workers than your loader has now, also with none, switched in your running loop. Fewer workers that are
    just as fast are reported too: they need less memory and start faster.

    Why it costs time
    -----------------
    Passing a batch from a worker to the training process costs a copy, a file descriptor and a wake-up. If the data is in
    memory already, or the machine has few cores, that can cost more than making the batch. More workers than cores only take
    turns.

    Example
    -------
    ::

        loader = DataLoader(TensorDataset(x, y), batch_size=32, num_workers=4)

    Use instead
    -----------
    ::

        loader = DataLoader(TensorDataset(x, y), batch_size=32)

    When this is wrong
    ------------------
    If the work is about to change (heavier augmentation, larger images): measure again then.
    """

    code = "PD103"
    slug = "too-many-workers"
    needs = ("loader.num_workers", "dataloader_workers.speedup")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the loader has workers and fewer were tried."""
        workers = seen.measurement("loader.num_workers")
        if workers is None or workers.median < 1:
            return None
        arms = [
            arm for arm in seen.arms_of("dataloader_workers", "cpu_threads")
            if int(config_from_id(arm)["dataloader_workers"]) < workers.median
        ]
        if not arms:
            return None
        best = best_arm(seen, arms)
        found = self.finding(
            seen, best, describe(seen, best), seen.loader_site, seen.change(best), [f"now: num_workers={workers.median:.0f}"]
        )
        cells = seen.capture.loop.loaders if seen.capture.loop else []
        batches = cells[0].batches_an_epoch if cells else None
        if batches is not None and batches < workers.median:
            more = f"an epoch has {batches} batches: {workers.median:.0f} workers can never all have one"
            found = replace(found, evidence=(*found.evidence, more))
        if found.verdict == "no difference":
            title = f"{seen.change(best)} is as fast as num_workers={workers.median:.0f}, and needs fewer processes"
            found = replace(found, title=title)
        return found
