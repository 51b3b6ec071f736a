"""PD703: somebody else uses the CPU."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.machine_state import BUSY_SHARE
from perfdoc.diagnosis.rule import Rule


class BusyMachine(Rule):
    """Other programs use the CPU during the scan: intervals are wider, and training itself is slower.

    What it measures
    ----------------
    Once a second: CPU time used by processes that are not part of your run, and time stolen by the hypervisor, in cores.

    Why it costs time
    -----------------
    A step waits for the slowest of its threads. One other busy program on one core can make a step that uses all cores several
    times slower. For the same reason intervals get wider.

    Example
    -------
    ::

        # another training, a browser or a build runs beside this one
        python train.py

    Use instead
    -----------
    ::

        # the machine to yourself while measuring, or cores of your own
        taskset -c 0-3 python train.py

    When this is wrong
    ------------------
    If the other programs belong to the training (a data server, a logger) and will run beside it later too.
    """

    code = "PD703"
    slug = "busy-machine"
    needs = ("machine.other_cpu", "machine.steal", "machine.cores")
    effort = "a change of design"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where others took a tenth of the cores or more, on average over the scan."""
        other, steal = seen.measurement("machine.other_cpu"), seen.measurement("machine.steal")
        cores = seen.measurement("machine.cores")
        if other is None or steal is None or cores is None:
            return None
        taken = other.mean + steal.mean
        if taken < BUSY_SHARE * cores.median:
            return None
        title = (
            f"others used {other.mean:.2f} cores and the hypervisor took {steal.mean:.2f}, of {cores.median:g}: "
            "intervals are wider than on a quiet machine"
        )
        return Finding(
            self.code, self.slug, title, "", "undecided", "measure again when the machine is quiet, or with a larger --budget",
            (f"worst second: {max(other.samples):.2f} cores of others, {max(steal.samples):.2f} stolen",), effort=self.effort,
        )
