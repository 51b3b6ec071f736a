"""PD111: workers whose libraries start threads of their own."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class OversubscribedThreads(TreatmentRule):
    """OpenCV starts a thread for every core in every worker.

    What it measures
    ----------------
    Your step with ``cv2.setNumThreads(0)`` where samples are made, switched on and off in your running loop. Fewer threads for
    the model are tried by the rules about workers and threads.

    Why it costs time
    -----------------
    torch gives each worker one thread, but OpenCV does not know that and uses all cores in each worker. With 8 workers on 8
    cores, 64 threads then compete for the cores, and with them the model's own threads.

    Example
    -------
    ::

        cv2.setNumThreads(8)
        loader = DataLoader(dataset, num_workers=1)

    Use instead
    -----------
    ::

        cv2.setNumThreads(0)
        loader = DataLoader(dataset, num_workers=1)

    When this is wrong
    ------------------
    With one worker and large pictures OpenCV's threads may be worth more than they cost.
    """

    code = "PD111"
    slug = "oversubscribed-threads"
    needs = ("step.time", "worker_threads.speedup")
    treatment = "worker_threads"
