"""PD115: every worker delivers the same data."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class UnshardedIterable(Rule):
    """An IterableDataset that gives every worker the whole stream.

    What it measures
    ----------------
    The first batches of two workers of your own data set, compared value by value.

    Why it costs time
    -----------------
    Each worker iterates over a copy of the data set. Unless the data set asks ``torch.utils.data.get_worker_info()`` for its
    share, all workers deliver the same samples: with four workers an epoch trains on every sample four times.

    Example
    -------
    ::

        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(torch.arange(64.0))

        loader = DataLoader(Stream(), batch_size=4, num_workers=2)

    Use instead
    -----------
    ::

        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                worker = torch.utils.data.get_worker_info()
                return iter(torch.arange(64.0)[worker.id :: worker.num_workers] if worker else torch.arange(64.0))

        loader = DataLoader(Stream(), batch_size=4, num_workers=2)

    When this is wrong
    ------------------
    Streams that shuffle with another seed in each worker deliver different samples on purpose; they are not reported.
    """

    code = "PD115"
    slug = "unsharded-iterable"
    needs = ("iterable.duplicated",)
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where two workers delivered the same batches."""
        found = seen.measurement("iterable.duplicated")
        if found is None or found.median < 1:
            return None
        workers = int(found.conditions["workers"])
        title = f"two workers deliver the same batches: with num_workers={workers} every sample comes {workers} times an epoch"
        fix = "take every num_workers-th sample: torch.utils.data.get_worker_info()"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix, effort=self.effort)
