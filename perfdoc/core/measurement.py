"""Measurements: what was measured, in SI units, with its raw samples, or the reason why it could not be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["s", "B", "1", "count", "1/s", "W"]
How = Literal[
    "measured in your loop", "measured in isolation", "estimated from stacks", "estimated from a trace", "rule of thumb"
]

UNITS: frozenset[str] = frozenset({"s", "B", "1", "count", "1/s", "W"})


@dataclass(frozen=True)
class Measurement:
    """One metric with its raw samples. Statistics are derived when read, never stored.

    ``metric``: dotted id such as ``step.time``. ``unit``: ``s`` seconds, ``B`` bytes, ``1`` a ratio, ``count``,
    ``1/s`` a rate, ``W`` watts. ``conditions``: what held while it was measured (arm, worker count...).
    """

    metric: str
    unit: Unit
    samples: tuple[float, ...]
    conditions: Mapping[str, str | int | float] = field(default_factory=dict)
    how: How = "measured in your loop"

    @property
    def median(self) -> float:
        """Median of the samples, in ``unit``."""
        return statistics.median(self.samples)

    @property
    def mean(self) -> float:
        """Mean of the samples, in ``unit``."""
        return statistics.fmean(self.samples)

    def to_json(self) -> dict[str, Any]:
        """The measurement as the capture stores it."""
        return {
            "metric": self.metric,
            "unit": self.unit,
            "samples": list(self.samples),
            "conditions": dict(self.conditions),
            "how": self.how,
        }


@dataclass(frozen=True)
class Unavailable:
    """A metric that could not be measured, and why. It takes the place of a number that would be a guess."""

    metric: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The entry as the capture stores it."""
        return {"metric": self.metric, "unavailable": self.reason}


def from_json(entry: Mapping[str, Any]) -> Measurement | Unavailable:
    """Read back one entry of a capture's ``measurements``."""
    if "unavailable" in entry:
        return Unavailable(entry["metric"], entry["unavailable"])
    return Measurement(
        entry["metric"], entry["unit"], tuple(entry["samples"]), entry.get("conditions", {}), entry["how"]
    )
