"""PD106: workers that do not work far enough ahead."""

from __future__ import annotations

from perfdoc.diagnosis.rule import TreatmentRule


class ShallowPrefetch(TreatmentRule):
    """Workers prefetch too few batches, or ready batches wait for a slow one.

    What it measures
    ----------------
    Your step with four times the ``prefetch_factor``, and with ``in_order=False``, switched on and off in your running loop.

    Why it costs time
    -----------------
    By default each worker prefetches two batches. If some batches take many times as long as others, the step waits for the
    slow one although later ones are ready. A longer queue, or taking batches in the order in which they are ready, avoids that.

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
    A longer queue holds more batches in /dev/shm. ``in_order=False`` changes the order of samples, so runs are not repeatable.
    If workers are too slow on average, a longer queue does not help: it is empty after some seconds.
    """

    code = "PD106"
    slug = "shallow-prefetch"
    needs = ("step.time", "step.data", "prefetching.speedup")
    treatment = "prefetching"
