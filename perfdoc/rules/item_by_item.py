"""PD118: tensors or arrays in memory are indexed one sample at a time."""

from __future__ import annotations

from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class ItemByItem(TreatmentRule):
    """Samples that lie in memory are fetched one by one and stacked, although one index operation cuts out the batch.

    What it measures
    ----------------
    Your step with your own data set asked once a batch, with the list of all its indices, switched on and off in your running
    loop. It is tried only where that gives the very values that single samples give, which is compared beforehand; with your
    workers and, where they can be changed, with other numbers of them.

    Why it costs time
    -----------------
    For a batch of 8192 samples a loader makes 8192 calls of Python, and as many small tensors, which it then stacks. Tensors
    and numpy arrays take a list of indices and copy all rows in one call. Workers do not help: they make the same calls, and
    each batch then goes through shared memory.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=4, shuffle=True)

    Use instead
    -----------
    ::

        sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(dataset), 4, drop_last=False)
        loader = DataLoader(dataset, batch_size=None, sampler=sampler)

    When this is wrong
    ------------------
    If samples are changed one by one afterwards (random transforms), these must be made to work on whole batches first. With
    ``batch_size=None``, ``loader.batch_size`` is None and ``len(loader)`` counts batches as before.
    """

    code = "PD118"
    slug = "item-by-item"
    needs = ("step.time", "whole_batches.speedup")
    effort = "a few lines"
    treatment = "whole_batches"

    def where(self, seen: Evidence) -> str:
        """The line of the loader."""
        return seen.loader_site

    def title(self, seen: Evidence, arm: str) -> str:
        """What is done for a batch now, and what the step becomes without."""
        loop, effect = seen.capture.loop, seen.effect(arm)
        if loop is None or effect is None or not effect.known or seen.verdict(arm) != "helps":
            return super().title(seen, arm)
        size = loop.loaders[0].batch_size or 0
        calls = f"in {size:,} calls a batch" if size > 1 else "one by one"
        return (f"samples that lie in memory are fetched {calls}; cut out at once, the step is {effect.speedup:.2f}x faster")

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Together with other numbers of workers."""
        together = [a for a in seen.arms_of(self.treatment, "dataloader_workers") if len(config_from_id(a)) > 1]
        return [f"with num_workers={config_from_id(a)['dataloader_workers']}: {effect.words}"
                for a in together if (effect := seen.effect(a))]
