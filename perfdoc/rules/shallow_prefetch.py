"""PD106: workers that do not work far enough ahead."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class ShallowPrefetch(TreatmentRule):
    """Workers work too few batches ahead, or wait for their turn.

    What it measures
    ----------------
    Your step with ``prefetch_factor`` four times as deep, and with ``in_order=False``, in your running loop.

    Why it costs time
    -----------------
    Two batches a worker are prefetched. Where some batches take many times as long as others, the step waits for the slow one
    although later ones are ready. More stock, or another order, rides over it.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=1, num_workers=1)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=1, num_workers=1, prefetch_factor=8, in_order=False)

    When this is wrong
    ------------------
    Deeper prefetching holds more batches in /dev/shm. ``in_order=False`` changes the order of samples: runs are not repeatable.
    Where workers are too slow on average, stock does not help: it only hides the first seconds.
    """

    code = "PD106"
    slug = "shallow-prefetch"
    needs = ("step.time", "step.data", "prefetching.speedup")
    treatment = "prefetching"
