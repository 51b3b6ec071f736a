"""PD120: a large part of what the model computes is padding."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule

MUCH = 0.2
"""Minimum share of the tokens that are padding for a finding without a measured gain: below it little can be saved."""
COMPUTING = ("forward", "loss", "backward")
"""Phases that compute padding with the rest; that they take as long as their tokens is the most that can be assumed."""
LEAST_LEFT = 0.02
"""Minimum share of a step that a bound leaves: the rest of it is measured no better than that."""


class Padding(TreatmentRule):
    """Rows are filled up to a fixed length, and the model computes the filling.

    What it measures
    ----------------
    The share of the tokens in your batches that a mask (``attention_mask``, a boolean padding mask) calls padding, or the id
    that rows end in. Your step with every batch cut behind its longest row, switched on and off in your running loop. The line
    is the one in your source that pads to a fixed length, where one was found.

    Why it costs time
    -----------------
    A mask keeps padding out of the result, not out of the work: every layer computes all positions of a row, and attention all
    pairs of them.

    Example
    -------
    ::

        class Texts(Dataset):
            __len__ = lambda self: 64
            def __getitem__(self, index):
                ids = torch.arange(2, 5 + index % 5)
                ids = F.pad(ids, (0, 32 - len(ids)))
                return {"input_ids": ids, "attention_mask": (ids != 0).long()}

        loader = DataLoader(Texts(), batch_size=4)

    Use instead
    -----------
    ::

        class Texts(Dataset):
            __len__ = lambda self: 64
            def __getitem__(self, index):
                return torch.arange(2, 5 + index % 5)

        def collate(rows):
            ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            return {"input_ids": ids, "attention_mask": (ids != 0).long()}

        loader = DataLoader(Texts(), batch_size=4, collate_fn=collate)

    When this is wrong
    ------------------
    If the model needs rows of one length, or reads positions that a mask calls padding. Compiled models and
    ``cudnn.benchmark`` prefer a few lengths: pad to the next multiple of 32 or so.
    """

    code = "PD120"
    slug = "padding"
    names_cause = "time"
    needs = ("step.time", "padding.share", "trimmed_padding.speedup")
    effort = "a few lines"
    treatment = "trimmed_padding"

    def check(self, seen: Evidence) -> Finding | None:
        """The treatment's outcome; where that is not known, the share alone, if it is large."""
        share = seen.measurement("padding.share")
        tried = super().check(seen)
        if (tried is not None and tried.verdict in ("helps", "hurts", "no difference")) or share is None or share.mean < MUCH:
            return tried
        computing = sum(m.mean for phase in COMPUTING if (m := seen.measurement(f"step.{phase}")) is not None)
        step = seen.measurement("step.time")
        saved = share.mean * (computing / step.mean if step is not None and step.mean and computing else 1.0)
        title = f"{_told(share, seen)}: at most {1 / max(LEAST_LEFT, 1 - saved):.2g}x faster without"
        offer = seen.offer(self.treatment)
        why = [tried.title] if tried is not None else []
        if offer is not None and offer.status != "offered" and offer.reason:
            why = [f"cutting batches behind their longest row was not tried: {offer.reason}"]
        return Finding(self.code, self.slug, title, self.where(seen), "undecided", _fix(share, seen),
                       (*self.evidence(seen, ""), *why), effort=self.effort, seconds_saved_a_step=saved * seen.step_seconds)

    def where(self, seen: Evidence) -> str:
        """The line that pads to a fixed length, or that of the loader."""
        share = seen.measurement("padding.share")
        return str(share.conditions.get("site", "") if share else "") or seen.loader_site

    def title(self, seen: Evidence, arm: str) -> str:
        """The share of padding, and what the step becomes without most of it."""
        share, effect = seen.measurement("padding.share"), seen.effect(arm)
        if share is None or effect is None or not effect.known or seen.verdict(arm) != "helps":
            return super().title(seen, arm)
        return f"{_told(share, seen)}; padded to the longest row of each batch, the step is {effect.speedup:.2f}x faster"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What says so, what is left in batches padded to their longest row, and how it is written."""
        share, left = seen.measurement("padding.share"), seen.measurement("padding.left")
        if share is None:
            return []
        said = [f"padding by {share.conditions['by']}, over {len(share.samples)} batches", _fix(share, seen)]
        if left is not None and left.mean >= MUCH:
            said.append(f"in batches padded to their longest row {left.mean:.0%} of the tokens are still padding: batches of "
                        "rows of about one length (group_by_length=True, a sampler that sorts) save more")
        return said


def _told(share: Measurement, seen: Evidence) -> str:
    """How much is padding, and of which rows."""
    longest = seen.measurement("padding.longest")
    rows = f"rows of {share.conditions['length']}"
    if longest is not None and longest.mean < float(share.conditions["length"]):
        rows += f", the longest of a batch has {longest.mean:.0f} on average"
    seems = "as it seems " if "whose rows end in" in str(share.conditions["by"]) else ""
    return f"{share.mean:.0%} of the tokens in a batch are {seems}padding ({rows})"


def _fix(share: Measurement, seen: Evidence) -> str:
    """How a batch is padded to its longest row, or rows of one length are put together."""
    left = seen.measurement("padding.left")
    if left is not None and left.mean > 0.95 * share.mean:
        return "put rows of about one length into a batch: group_by_length=True, a sampler that sorts"
    places = seen.capture.loop.places if seen.capture.loop else None
    if "attention_mask" in str(share.conditions["by"]) or (places is not None and "transformers" in places.packages):
        return "tokenizer(..., truncation=True) without padding, and DataCollatorWithPadding(tokenizer) as the collate function"
    return "pad where batches are put together: pad_sequence(rows, batch_first=True) in collate_fn"
