"""PD317: the number of threads that CPU operators use."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class CpuThreads(TreatmentRule):
    """Training on the CPU with another number of intra-op threads than serves the step best.

    What it measures
    ----------------
    Your step with one thread, half the cores and all cores available, in your running loop. Together with DataLoader workers
    it is tried too: that is reported by the rules on workers.

    Why it costs time
    -----------------
    Small operators spend more on waking threads than the threads save; large ones want every core. torch counts the cores
    of the machine, not those a container may use, and so can start far too many.

    Example
    -------
    ::

        torch.set_num_threads(2)

    Use instead
    -----------
    ::

        torch.set_num_threads(1)

    When this is wrong
    ------------------
    Where the script moves to a machine with another number of cores, or to a GPU.
    """

    code = "PD317"
    slug = "cpu-threads"
    needs = ("step.time", "cpu_threads.speedup")
    treatment = "cpu_threads"
