"""PD118: tensors or arrays in memory are indexed one sample at a time."""

from __future__ import annotations

from dataclasses import replace

from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule, worth_a_word


class ItemByItem(TreatmentRule):
    """Samples that lie in memory are fetched one by one and stacked, although one index operation cuts out the batch.

    What it measures
    ----------------
    Your step with your own data set asked once a batch, with the list of all its indices, switched on and off in your running
    loop. It is tried only where that gives the very values that single samples give, which is compared beforehand; with your
    workers and, where they can be changed, with other numbers of them. A batch is also made both ways beside the loop.

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
    names_cause = "time"
    needs = ("step.time", "batch.one_by_one", "batch.at_once", "whole_batches.speedup")
    effort = "a few lines"
    treatment = "whole_batches"

    def check(self, seen: Evidence) -> Finding | None:
        """The treatment's outcome; where that is not known, what a batch takes both ways, if it could be felt."""
        tried = super().check(seen)
        if tried is not None and tried.verdict in ("helps", "hurts", "no difference"):
            return tried
        single, whole = seen.measurement("batch.one_by_one"), seen.measurement("batch.at_once")
        if single is None or whole is None:
            return tried
        loop, waits = seen.capture.loop, seen.measurement("step.data")
        loaders = loop.loaders if loop else []
        batches = loaders[0].batches_a_step / max(1, loaders[0].num_workers) if loaders else 1.0
        saved = (min(single.samples) - min(whole.samples)) * batches
        saved = min(saved, waits.mean if waits is not None else seen.step_seconds)
        if not worth_a_word(saved, seen):
            return tried
        title = f"{self.cause(seen)}: {_ms(single)}, cut out at once {_ms(whole)}"
        if tried is None:
            return Finding(self.code, self.slug, title, self.where(seen), "undecided", _fix(seen), (), effort=self.effort,
                           seconds_saved_a_step=saved)
        return replace(tried, title=title, evidence=(tried.title, *tried.evidence),
                       seconds_saved_a_step=max(saved, tried.seconds_saved_a_step))

    def where(self, seen: Evidence) -> str:
        """The line of the loader."""
        return seen.loader_site

    def cause(self, seen: Evidence) -> str:
        """What is done for a batch now."""
        return f"samples that lie in memory are fetched {_how(seen)}"

    def title(self, seen: Evidence, arm: str) -> str:
        """What is done for a batch now, and what the step becomes without."""
        effect = seen.effect(arm)
        if effect is None or not effect.known or seen.verdict(arm) != "helps":
            return super().title(seen, arm)
        return f"{self.cause(seen)}; cut out at once, the step is {effect.speedup:.2f}x faster"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What a batch takes both ways, and together with other numbers of workers."""
        single, whole = seen.measurement("batch.one_by_one"), seen.measurement("batch.at_once")
        said = []
        if single is not None and whole is not None:
            said.append(f"a batch takes {_ms(single)} one by one, {_ms(whole)} at once")
        together = [a for a in seen.arms_of(self.treatment, "dataloader_workers") if len(config_from_id(a)) > 1]
        return said + [f"with num_workers={config_from_id(a)['dataloader_workers']}: {effect.words}"
                       for a in together if (effect := seen.effect(a))]


def _ms(found: Measurement) -> str:
    """The shortest sample: what else ran on the machine only makes them longer."""
    return f"{min(found.samples) * 1e3:.3g} ms"


def _how(seen: Evidence) -> str:
    """``in 8,192 calls a batch``."""
    loop = seen.capture.loop
    size = (loop.loaders[0].batch_size or 0) if loop and loop.loaders else 0
    return f"in {size:,} calls a batch" if size > 1 else "one by one"


def _fix(seen: Evidence) -> str:
    """The arguments of the loader."""
    offer = seen.offer("whole_batches")
    return (offer.change("on") if offer is not None else None) or "batch_size=None, sampler=BatchSampler(...)"
