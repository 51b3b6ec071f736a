"""PD311: layers with odd sizes."""

from __future__ import annotations

import math

from perfdoc.core import stats
from perfdoc.core.finding import Finding, Verdict
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, worth_a_word


class MisalignedShapes(Rule):
    """Large linear layers whose sizes are not multiples of 8: vocabularies, heads, hidden sizes.

    What it measures
    ----------------
    Large linear layers with odd sizes that ran in your step. Forward and backward of each layer alone are timed on your device,
    with as many rows as in your step: as the layer is, and padded to the next multiple of 64, in alternating pairs. What
    padding saves is compared with the whole step.

    Why it costs time
    -----------------
    Matrix units work on tiles. If a size is not a multiple of the tile, kernels handle the rest separately, read memory
    unaligned, or fall back to slower code. On tensor cores that can make the layer much slower; on CPUs it often costs
    nothing.

    Example
    -------
    ::

        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1003))

    Use instead
    -----------
    ::

        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1024))

    When this is wrong
    ------------------
    If the output's size matters to what follows: then slice the padded output, or mask the padding in the loss. The
    measurement holds for the device of this scan; on another one the effect may be larger or smaller.
    """

    code = "PD311"
    slug = "misaligned-shapes"
    needs = ("step.time", "alignment.saved")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding about the layer that saves most, where that is felt; it cannot help: it was not padded in the step."""
        found = [m for m in seen.measurements("alignment.saved") if len(m.samples) >= 4]
        if not found or not seen.step_seconds:
            return None
        best = max(found, key=lambda m: stats.trimmed_mean(m.samples))
        low, high = stats.bootstrap_bounds(best.samples, 0.05)
        if low <= 0 or not worth_a_word(stats.trimmed_mean(best.samples), seen):
            return None  # padding costs time, saves nothing that is sure, or nothing that is felt
        least, most = low / seen.step_seconds, high / seen.step_seconds
        verdict: Verdict = "no difference" if most < seen.smallest_effect and least > -seen.smallest_effect else "undecided"
        name, padded = best.conditions["layer"], best.conditions["padded"]
        title = f"{name} ({best.conditions['shape']}) is of odd size"
        if verdict == "no difference":
            title += f", and padding it to {padded} would not be felt in the step"
        else:
            title += f": padded to {padded}, the layer alone saves {least:.1%} to {most:.1%} of the step"
        return Finding(
            self.code, self.slug, title, "", verdict, f"pad {name} to {padded} and slice its output; then scan again",
            tuple(_line(m, seen.step_seconds) for m in found), effort=self.effort,
        )


def _line(found: Measurement, step: float) -> str:
    low, high = stats.bootstrap_bounds(found.samples, 0.05)
    share = stats.trimmed_mean(found.samples) / step
    return (
        f"{found.conditions['layer']}, {found.conditions['rows']} rows: {share:+.2%} of the step "
        f"[{low / step:+.2%}, {high / step:+.2%}], {len(found.samples)} pairs in isolation"
    ) if math.isfinite(share) else ""
