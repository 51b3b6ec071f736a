"""From a comparison of decoders to rows: how fast, alone and in workers, with what pixels, and what it does to odd files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from perfdoc.core import stats
from perfdoc.core.finding import Effect
from perfdoc.core.measurement import Measurement, Unavailable

REFERENCE = "pil"
SURPRISES = ("raises", "returns", "turned", "other", "shape")
"""First words of outcomes that a person should know of."""


@dataclass(frozen=True)
class DecoderRow:
    """One decoder."""

    slug: str
    seconds: Mapping[str, Mapping[int, float]]
    """Seconds a file by where (``alone``, ``in workers``: of all processes together) and round."""
    decodes: float = 1.0
    """Share of the files that it decodes."""
    largest_error: float | None = None
    """Largest difference to Pillow's pixels, as a share of the full range."""
    mean_error: float | None = None
    cases: Mapping[str, str] = field(default_factory=dict)
    """Odd file -> what becomes of it."""
    missing: str = ""
    scaled: bool = False
    """Whether its speed is that of a smaller picture."""

    def rate(self, where: str) -> float | None:
        """Files a second; None where it was not measured."""
        values = list(self.seconds.get(where, {}).values())
        return 1 / statistics.median(values) if values else None

    @property
    def pixels(self) -> str:
        """How its pixels compare with Pillow's, in words."""
        if self.scaled:
            return "scaled"
        if self.largest_error is None or self.mean_error is None:
            return ""
        if not self.largest_error:
            return "same"
        return f"off by up to {self.largest_error * 255:.0f}, mean {self.mean_error * 255:.2g} of 255"

    def surprises(self, reference: DecoderRow | None) -> list[str]:
        """Odd files that it treats unlike Pillow does."""
        usual = reference.cases if reference else {}
        return [
            f"{case}: {outcome}" for case, outcome in self.cases.items()
            if outcome.startswith(SURPRISES) and outcome != usual.get(case)
        ]


@dataclass(frozen=True)
class DecoderAnswer:
    """All decoders, the fastest in workers first."""

    rows: tuple[DecoderRow, ...]
    files: int
    processes: int

    def row(self, slug: str) -> DecoderRow | None:
        """The row of a decoder."""
        return next((row for row in self.rows if row.slug == slug), None)

    @property
    def _noise(self) -> float | None:
        """Variance of a log ratio to Pillow within a round, pooled over all decoders; None where there are too few rounds."""
        reference, df = self.row(REFERENCE), 0
        off: list[float] = []
        for row in self.rows if reference else ():
            for where, mine in row.seconds.items():
                theirs = reference.seconds.get(where, {}) if reference and row is not reference else {}
                values = [math.log(theirs[place] / mine[place]) for place in mine if place in theirs]
                if len(values) > 1:
                    off += [abs(value - statistics.fmean(values)) for value in values]
                    df += len(values) - 1
        if not df:
            return None
        # One round in which the machine stalled must not widen all: deviations count up to 2.5 usual ones.
        usual = 1.4826 * statistics.median(off) * math.sqrt(len(off) / df)
        return sum(min(2.5 * usual, value) ** 2 for value in off) / df

    def speedup(self, row: DecoderRow, where: str) -> Effect | None:
        """How many times as fast as Pillow, from the rounds that have both; None for Pillow itself or too few rounds."""
        reference = self.row(REFERENCE)
        if reference is None or row.slug == REFERENCE:
            return None
        mine, theirs = row.seconds.get(where, {}), reference.seconds.get(where, {})
        values = [math.log(theirs[place] / mine[place]) for place in mine if place in theirs]
        if len(values) < 2:
            return None
        shown = stats.interval(values, self._noise)
        return Effect(*shown.speedup, len(values), "measured in isolation")


def read(measurements: Sequence[Measurement | Unavailable]) -> DecoderAnswer | None:
    """The comparison from a capture's measurements; None where none was made."""
    seconds: dict[str, dict[str, dict[int, float]]] = {}
    other: dict[str, dict[str, float]] = {}
    cases: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}
    scaled: dict[str, bool] = {}
    files, processes = 0, 1
    for found in measurements:
        if isinstance(found, Unavailable):
            prefix, _, slug = found.metric.partition(".")
            if prefix == "decoder" and slug != "seconds":
                missing[slug] = found.reason
            continue
        if not found.metric.startswith("decoder."):
            continue
        slug = str(found.conditions.get("decoder", ""))
        if found.metric == "decoder.seconds":
            where = seconds.setdefault(slug, {}).setdefault(str(found.conditions["where"]), {})
            where[int(found.conditions["round"])] = found.median
            processes = max(processes, int(found.conditions["processes"]))
        elif found.metric == "decoder.files":
            files = int(found.median)
        elif found.metric == "decoder.case":
            cases.setdefault(slug, {})[str(found.conditions["case"])] = str(found.conditions["outcome"])
        else:
            scaled[slug] = scaled.get(slug, False) or bool(found.conditions.get("scaled"))
            worst = max(found.samples) if found.metric == "decoder.largest_error" else found.mean
            other.setdefault(slug, {})[found.metric] = worst
    if not seconds and not missing:
        return None
    rows = [
        DecoderRow(slug, seconds.get(slug, {}), had.get("decoder.decodes", 1.0), had.get("decoder.largest_error"),
                   had.get("decoder.mean_error"), cases.get(slug, {}), scaled=scaled.get(slug, False))
        for slug, had in other.items()
    ]
    rows.sort(key=lambda row: -(row.rate("in workers") or row.rate("alone") or 0.0))
    rows += [DecoderRow(slug, {}, missing=why) for slug, why in missing.items()]
    return DecoderAnswer(tuple(rows), files, processes)
