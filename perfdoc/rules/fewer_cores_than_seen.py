"""PD704: the process may use fewer cores than the machine shows."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class FewerCoresThanSeen(Rule):
    """The process may use fewer cores than the machine has, so numbers derived from ``os.cpu_count()`` are too high.

    What it measures
    ----------------
    The cores that the affinity mask and the cgroup quota allow, the cores of the machine, and the threads that torch started.

    Why it costs time
    -----------------
    Containers and batch systems limit the cores but do not hide the others. Libraries that count the machine's cores start too
    many threads and workers, which then take turns on the few cores that they may use.

    Example
    -------
    ::

        DataLoader(dataset, num_workers=os.cpu_count())

    Use instead
    -----------
    ::

        DataLoader(dataset, num_workers=len(os.sched_getaffinity(0)) - 1)  # a cgroup quota may be lower still: see the scan

    When this is wrong
    ------------------
    If the process only reaches its quota for moments, more threads than cores can be fine.
    """

    code = "PD704"
    slug = "fewer-cores-than-seen"
    needs = ("machine.cores", "step.time")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where at least one core of the machine is out of reach."""
        cores, loop = seen.measurement("machine.cores"), seen.capture.loop
        if cores is None or loop is None or loop.cores > cores.median - 1:
            return None
        title = f"of {cores.median:g} cores this process may use {loop.cores:g}; torch uses {loop.threads} threads"
        workers = sum(loader.num_workers for loader in loop.loaders)
        fix = f"choose threads and workers for {loop.cores:g} cores; os.cpu_count() says {cores.median:g}"
        return Finding(self.code, self.slug, title, "", "undecided", fix, (f"{workers} DataLoader workers",),
                       effort=self.effort)
