"""PD101: the loop loads its data itself."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, best_arm, describe


class SynchronousLoader(Rule):
    """num_workers=0: the training process reads, decodes and transforms every batch itself.

    What it measures
    ----------------
    Your step with worker processes in your own loader, switched on and off in your running loop, alone and together with fewer
    intra-op threads. The whole step is judged, never the wait for data alone, because workers compete with the model for the
    CPU.

    Why it costs time
    -----------------
    With ``num_workers=0`` the model waits while a batch is made, and no batch is made while the model computes. With worker
    processes both happen at once, if there are cores for both. Each batch then goes through shared memory; if the data set is
    small and already in memory, that costs more than it saves.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=32)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=32, num_workers=2)

    When this is wrong
    ------------------
    On a machine with few cores that trains on the CPU, workers take the cores that the model needs: the step gets slower
    although the waiting disappears. Data sets that cannot be pickled or that hold open files may fail with workers. The best
    number of workers is that of the machine it was measured on.
    """

    code = "PD101"
    slug = "synchronous-loader"
    needs = ("step.time", "step.data", "loader.num_workers", "dataloader_workers.speedup")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the step's loader has no workers and some could be tried."""
        workers = seen.measurement("loader.num_workers")
        arms = seen.arms_of("dataloader_workers", "cpu_threads")
        if workers is None or workers.median != 0 or not arms:
            return None
        best = best_arm(seen, arms)
        evidence = []
        data, step = seen.measurement("step.data"), seen.measurement("step.time")
        if data and step:
            evidence.append(f"the step waits {data.mean * 1e3:.3g} ms of {step.mean * 1e3:.3g} ms for data")
        evidence += [
            f"{seen.change(arm)}: {effect.words}"
            for arm in arms if arm != best and (effect := seen.effect(arm))
        ]
        return self.finding(seen, best, describe(seen, best), seen.loader_site, seen.change(best), evidence)
