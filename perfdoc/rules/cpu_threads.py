"""PD317: the number of threads that CPU operators use."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class CpuThreads(TreatmentRule):
    """Training on the CPU with a number of intra-op threads that is not the fastest for this step.

    What it measures
    ----------------
    Your step with one thread, with half of the available cores and with all of them, switched in your running loop. The number
    of threads is also tried together with DataLoader workers; the rules about workers report that.

    Why it costs time
    -----------------
    For small operators, waking threads takes longer than the threads save; large ones profit from every core. torch counts the
    cores of the machine, not those that a container may use, so it can start far too many threads.

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
    If the script will run on a machine with another number of cores, or on a GPU.
    """

    code = "PD317"
    slug = "cpu-threads"
    needs = ("step.time", "cpu_threads.speedup")
    treatment = "cpu_threads"
