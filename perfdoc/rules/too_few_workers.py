"""PD102: more workers than now would make the step faster, or were measured not to."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, best_arm, describe


class TooFewWorkers(Rule):
    """Fewer DataLoader workers than the step needs.

    What it measures
    ----------------
    Your step with more workers than your loader has now, up to the number of cores that are really available (affinity, cgroup
    quota), switched in your running loop, alone and together with fewer intra-op threads.

    Why it costs time
    -----------------
    If all workers together make batches more slowly than the model uses them, every step waits.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=32, num_workers=1)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=32, num_workers=2)

    When this is wrong
    ------------------
    If memory or /dev/shm is short: every worker holds a copy of what the data set keeps in Python objects, and its prefetched
    batches are in shared memory.
    """

    code = "PD102"
    slug = "too-few-workers"
    needs = ("loader.num_workers", "dataloader_workers.speedup")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the loader has workers and more were tried."""
        workers = seen.measurement("loader.num_workers")
        if workers is None or workers.median < 1:
            return None
        arms = [
            arm for arm in seen.arms_of("dataloader_workers", "cpu_threads")
            if int(config_from_id(arm)["dataloader_workers"]) > workers.median
        ]
        if not arms:
            return None
        best = best_arm(seen, arms)
        evidence = [f"now: num_workers={workers.median:.0f}"]
        return self.finding(seen, best, describe(seen, best), seen.loader_site, seen.change(best), evidence)
