"""PD111: workers whose libraries start threads of their own."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class OversubscribedThreads(TreatmentRule):
    """OpenCV, or the BLAS library behind NumPy and SciPy, starts a thread for every core in every worker.

    What it measures
    ----------------
    Your step with one thread for these libraries where samples are made, switched on and off in your running loop. BLAS is
    tried where a few samples, made one after the other, keep more than 1.3 threads at work. Its threads are set by
    ``threadpoolctl`` if that is installed, else by OpenBLAS' own function. Fewer threads for the model are tried by the rules
    about workers and threads.

    Why it costs time
    -----------------
    torch gives each worker one thread, but these libraries do not know that and use all cores in each worker. With 8 workers on
    8 cores, 64 threads then compete for the cores, and with them the model's own threads.

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
    With one worker and large pictures or matrices these threads may be worth more than they cost. For NumPy, call
    ``threadpoolctl.threadpool_limits(1, "blas")`` in ``worker_init_fn``, or set ``OPENBLAS_NUM_THREADS=1`` before NumPy is
    imported.
    """

    code = "PD111"
    slug = "oversubscribed-threads"
    needs = ("step.time", "worker_threads.speedup")
    treatment = "worker_threads"
