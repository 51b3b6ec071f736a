"""The ratio of the speeds of two versions of a script, from the log ratios of rounds by pair of processes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfdoc.core import stats
from perfdoc.core.finding import says_nothing

ROUNDS = 12
"""Blocks of each side while a pair of processes lives, at least; and between two looks at the ratio."""
MOST_DF = 8.0
"""Degrees of freedom at most: the error of a median of some dozen rounds is itself an estimate on the small side."""
TELLING_LOAD = 0.1
"""Cores by which the load of two rounds must differ for their ratios to tell what load does."""
FEWEST_SLOPES = 15
FEWEST_ROUNDS = 8
"""Rounds from which their spread is told."""
UNKNOWN = 0.1
"""Standard deviation of the log ratio of a round that is taken before."""
START_SPREAD = 0.01
"""Standard deviation of the log ratio between pairs of processes of the same code that is assumed before it was seen, with the
weight of ``PRIOR_DF`` pairs. ``benchmarks/gate_truth.py`` shows what false alarms come of it."""
PRIOR_DF = 4.0


@dataclass(frozen=True)
class Ratio:
    """Seconds a step of the second side over those of the first, from ``starts`` pairs of processes with ``rounds`` in all."""

    center: float
    """Log of the ratio."""
    error: float
    """Standard error of the log."""
    df: float
    starts: int
    rounds: int

    def bounds(self, error: float = 0.05) -> tuple[float, float]:
        """Interval of the ratio (not of its log), two-sided."""
        half = stats.t_critical(error, self.df) * self.error
        return stats.ratio_of(self.center - half), stats.ratio_of(self.center + half)

    @property
    def ratio(self) -> float:
        """The estimate."""
        return stats.ratio_of(self.center)

    @property
    def known(self) -> bool:
        """Whether the interval is narrow enough to say something."""
        return not says_nothing(*self.bounds())

    def to_json(self) -> dict[str, Any]:
        """The ratio as ``--json`` prints it: raw figures, and whether they say anything."""
        low, high = self.bounds()
        return {"ratio": self.ratio, "low": low, "high": high, "starts": self.starts, "rounds": self.rounds,
                "known": self.known}


def load_taken_out(rounds: Sequence[Sequence[tuple[float, float]]]) -> list[list[float]]:
    """Log ratios less what others' use of the machine explains of them.

    ``rounds``: by pair of processes, the log ratio of a round and by how many cores others (and the hypervisor) used the
    machine more while the second side ran. The slope is the median of those between rounds of the same pair (Theil and Sen),
    none below zero: others make nobody faster.
    """
    slopes = sorted(
        (y - other_y) / (x - other_x)
        for pair in rounds for (y, x), (other_y, other_x) in itertools.combinations(pair, 2) if abs(x - other_x) >= TELLING_LOAD
    )
    slope = max(0.0, statistics.median(slopes)) if len(slopes) >= FEWEST_SLOPES else 0.0
    return [[y - slope * x for y, x in pair] for pair in rounds]


def ratio_of(starts: Sequence[Sequence[float]]) -> Ratio:
    """From log ratios by pair of processes and round.

    A pair's value is the median of its rounds: where others use the machine in stretches, half of the rounds meet the same on
    both sides and agree within percents, and the rest lies far off. Its variance is that between processes, which is assumed,
    and that of the median (Maritz and Jarrett's, of all rounds about their pair's). Pairs are weighted by it; how far they
    scatter beyond it widens the interval, together with the assumption's own weight (a moderated t, Smyth 2004).
    Degrees of freedom are those of the two variances together.
    """
    means = [statistics.median(values) for values in starts]
    off = [value - middle for values, middle in zip(starts, means, strict=True) for value in values]
    known = len(off) >= FEWEST_ROUNDS
    within = stats.median_error(off) ** 2 * len(off) ** 2 / (len(off) - len(starts)) if known else UNKNOWN**2
    variances = [START_SPREAD**2 + within / len(values) for values in starts]
    weight = sum(1 / v for v in variances)
    middle = sum(m / v for m, v in zip(means, variances, strict=True)) / weight
    few = PRIOR_DF + len(means) - 1
    scatter = (PRIOR_DF + sum((m - middle) ** 2 / v for m, v in zip(means, variances, strict=True))) / few
    between = START_SPREAD**2 / len(means)
    inside = max(0.0, 1 / weight - between)
    # Satterthwaite: what is known from many rounds is not as uncertain as what is known from few processes.
    df = min(MOST_DF, (between + inside) ** 2 / (between**2 / few + inside**2 / max(1.0, (len(off) - len(means)) / 2)))
    return Ratio(middle, math.sqrt(scatter / weight), df, len(means), len(off))


def worn_out(rounds: Sequence[float]) -> bool:
    """Whether more rounds of the same two processes would tell little: their mean is known as well as processes are alike."""
    return len(rounds) >= ROUNDS and stats.median_error(rounds) <= START_SPREAD
