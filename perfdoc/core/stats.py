"""The statistics of paired, interleaved comparisons, in plain Python.

This module runs inside the user's process too (the experiment decides while the loop runs), so it imports nothing
beyond the standard library. Everything here works on *log speed-ups*: ``log(seconds of control / seconds of arm)``,
one value a pair, so that 0 means no effect and effects add.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

Judgement = Literal["helps", "hurts", "no difference", "undecided"]

TRIM = 0.2
"""Share of pairs trimmed from each end. 20% is Wilcox's default (Introduction to Robust Estimation, 2012, ch. 3)."""

PRIOR_DF = 4.0
"""Weight, in degrees of freedom, of the noise seen between control blocks when an arm has few pairs of its own.

Moderated t (Smyth 2004) with a fixed prior; ``benchmarks/false_alarms.py`` shows coverage and false alarms with it.
"""

LOOKS = (4, 6, 8, 10, 13, 17, 22, 30, 42, 60)
"""Numbers of pairs after which the experiment may look at an arm and stop. The error rate is spent evenly on them."""

DECISION_ERROR = 0.01
"""Chance, over all arms and looks of one scan together, of claiming an effect where there is none."""

MOST_PAIRS = 1000
"""Pairs beyond which an undecided arm is called too close to settle."""

DISPLAY_LOOKS = 3
"""By how many looks the shown 95% interval is corrected for peeking.

Looks at growing data are strongly correlated, so the full Bonferroni count would overstate it; the coverage that
results (with stopping at any look) is measured in ``benchmarks/false_alarms.py``.
"""


LARGEST_LOG = 30.0
"""Logs of ratios beyond it, either way, are taken for it: a ratio of 1e13 says no less than a larger one, and is a number that
JSON can hold and that can be divided by."""


def ratio_of(log: float) -> float:
    """The ratio of a log ratio: finite, and never zero."""
    return math.exp(min(LARGEST_LOG, max(-LARGEST_LOG, log)))


class Interval(NamedTuple):
    """An estimate with its interval, in log speed-up units, from ``pairs`` paired values."""

    center: float
    low: float
    high: float
    pairs: int

    @property
    def speedup(self) -> tuple[float, float, float]:
        """The estimate, the low end and the high end as ratios (1.07 = 1.07x faster)."""
        return ratio_of(self.center), ratio_of(self.low), ratio_of(self.high)


class Overlap(NamedTuple):
    """What the pairs of an arm have in common because they share control blocks, in units of one block's variance.

    It follows from the design alone (:func:`perfdoc.core.blocks.overlap`), for blocks of independent noise of one variance. In
    c p c p c each pair is compared with the mean of two controls, so it has 1.5 variances, and neighbours share a quarter of
    one. Eight such pairs have a mean whose variance is 1.94 / 8, while their scatter shows only 1.44: the interval would be
    14% too narrow.
    """

    single: float = 1.5
    """Variance of one pair, on average over the pairs."""
    common: float = 0.0
    """Covariance of two different pairs, on average over all pairs of pairs. Never negative: weights of controls are not."""

    def inflation(self, pairs: int) -> float:
        """By how much the variance of the mean of so many pairs is larger than their scatter says."""
        return (self.single + (pairs - 1) * self.common) / (self.single - self.common)


NO_OVERLAP = Overlap()
CONTROL_PAIR = 1.5
"""Variance of one control block against the mean of its two neighbours (:func:`control_noise`), in those of one block."""


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (Lentz's method; DLMF 8.17.22)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    h = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            h *= d * c
        if abs(d * c - 1.0) < 1e-13:
            break
    return h


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


@lru_cache(maxsize=4096)
def t_critical(error: float, df: float) -> float:
    """The value that |t| of Student's distribution with ``df`` degrees of freedom exceeds with chance ``error``."""
    if not 0.0 < error < 1.0 or df <= 0.0:
        raise ValueError(f"t_critical needs 0 < error < 1 and df > 0, got {error} and {df}")
    low, high = 0.0, 1.0
    while _incomplete_beta(df / 2, 0.5, df / (df + high * high)) > error:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        if _incomplete_beta(df / 2, 0.5, df / (df + middle * middle)) > error:
            low = middle
        else:
            high = middle
    return high


def trimmed_mean(values: Sequence[float]) -> float:
    """The 20% trimmed mean: a few stalled blocks do not move it."""
    ordered = sorted(values)
    cut = int(TRIM * len(ordered))
    return statistics.fmean(ordered[cut : len(ordered) - cut])


class _Location(NamedTuple):
    """A trimmed mean with what is known of its error."""

    center: float
    error: float
    """Standard error."""
    df: float
    inflation: float
    """Of the variance, by pairs that share controls; it is in ``error`` already."""


def _location(values: Sequence[float], prior_variance: float | None, overlap: Overlap) -> _Location:
    """Trimmed mean, its standard error (Yuen, from the winsorised variance) and degrees of freedom.

    The scatter of pairs that share controls does not show the part of their noise that they have in common. It is added by the
    design: in proportion to the scatter (right where arm and control are as noisy), or from the noise of the control itself
    (right where the arm is the quieter of the two), whichever is more. A trimmed mean of mildly correlated values gains as
    much variance by their correlation as a mean does.
    """
    n = len(values)
    ordered = sorted(values)
    cut = int(TRIM * n)
    kept = n - 2 * cut
    winsorised = [ordered[cut]] * cut + ordered[cut : n - cut] + [ordered[n - cut - 1]] * cut
    variance = statistics.variance(winsorised) * (n - 1) / (kept - 1)
    df = float(kept - 1)
    if prior_variance is not None:
        variance = (PRIOR_DF * prior_variance + df * variance) / (PRIOR_DF + df)
        df += PRIOR_DF
    inflation = overlap.inflation(n)
    if prior_variance is not None and variance > 0:
        inflation = max(inflation, 1 + kept * overlap.common * prior_variance / (CONTROL_PAIR * variance))
    return _Location(statistics.fmean(ordered[cut : n - cut]), math.sqrt(inflation * variance / kept), df, inflation)


def median_error(values: Sequence[float]) -> float:
    """Standard error of the median (Maritz and Jarrett 1978): for values of which many, but not most, lie far off."""
    ordered, n = sorted(values), len(values)
    m = (n + 1) // 2
    shares = [_incomplete_beta(m, n - m + 1, i / n) for i in range(n + 1)]
    weights = [b - a for a, b in itertools.pairwise(shares)]
    middle = sum(w * x for w, x in zip(weights, ordered, strict=True))
    return math.sqrt(max(0.0, sum(w * x * x for w, x in zip(weights, ordered, strict=True)) - middle**2))


def control_noise(log_seconds: Sequence[float]) -> float | None:
    """Variance of one control block against the mean of its two neighbours, robustly; None below 5 blocks.

    ``log_seconds``: log of seconds a step of consecutive control blocks, in the order they ran.
    """
    if len(log_seconds) < 5:
        return None
    off = [
        log_seconds[i] - (log_seconds[i - 1] + log_seconds[i + 1]) / 2 for i in range(1, len(log_seconds) - 1)
    ]
    # 1.4826 x the median absolute deviation estimates the standard deviation of normal noise.
    return (1.4826 * statistics.median(abs(x) for x in off)) ** 2


def bootstrap_bounds(
    values: Sequence[float], error: float, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap bounds of the trimmed mean over pairs."""
    rng = random.Random(seed)
    means = sorted(trimmed_mean(rng.choices(values, k=len(values))) for _ in range(resamples))
    cut = min(int(error / 2 * resamples), (resamples - 1) // 2)
    return means[cut], means[resamples - 1 - cut]


def interval(values: Sequence[float], prior_variance: float | None = None, error: float = 0.05,
             overlap: Overlap = NO_OVERLAP) -> Interval:
    """The interval shown to people: 95%, valid although the experiment peeks and stops when it is sure.

    It is the wider, at each end, of the percentile bootstrap over pairs and the trimmed-mean t interval: with the few
    pairs of a scan the bootstrap alone is too narrow. ``overlap``: what the pairs have in common; it widens both. Raises
    ValueError below two pairs.
    """
    if len(values) < 2:
        raise ValueError("an interval needs at least two pairs")
    center, standard_error, df, inflation = _location(values, prior_variance, overlap)
    each = error / DISPLAY_LOOKS
    half = t_critical(each, df) * standard_error
    low, high = center - half, center + half
    if len(values) >= 5:
        boot_low, boot_high = (center + math.sqrt(inflation) * (end - center) for end in bootstrap_bounds(values, each))
        low, high = min(low, boot_low), max(high, boot_high)
    return Interval(center, low, high, len(values))


def judge(
    values: Sequence[float],
    smallest_effect: float,
    comparisons: int,
    prior_variance: float | None = None,
    overlap: Overlap = NO_OVERLAP,
) -> Judgement:
    """What ``values`` say about one arm, as a verdict that stays valid under peeking and many arms.

    ``smallest_effect`` is a share (0.02 = 2%). ``helps``/``hurts`` needs the estimate beyond it, and zero outside both
    the shown interval and the stricter one corrected for all looks and ``comparisons`` arms; ``no difference`` needs the
    shown interval inside it on both sides; all else is ``undecided``.
    """
    if len(values) < LOOKS[0]:
        return "undecided"
    bound = math.log1p(smallest_effect)
    center, standard_error, df, _ = _location(values, prior_variance, overlap)
    strict = t_critical(DECISION_ERROR / (len(LOOKS) * max(1, comparisons)), df) * standard_error
    if abs(center) >= bound and abs(center) > strict:
        shown = interval(values, prior_variance, overlap=overlap)
        if shown.low > 0 or shown.high < 0:
            return "helps" if center > 0 else "hurts"
    half = t_critical(0.05 / DISPLAY_LOOKS, df) * standard_error
    if abs(center) + half < bound:  # the bootstrap is only asked where the t interval, never wider, is inside
        shown = interval(values, prior_variance, overlap=overlap)
        if shown.low > -bound and shown.high < bound:
            return "no difference"
    return "undecided"


def keep(
    settled: str | None, values: Sequence[float], smallest_effect: float, comparisons: int, prior_variance: float | None,
    overlap: Overlap = NO_OVERLAP,
) -> Judgement:
    """The verdict to report on an arm that the experiment settled as ``settled`` (None: it did not).

    A sequential test is decided at the look at which it stopped; blocks that came later do not take that back, unless
    they contradict it: the shown interval must still say the same, for the effect that is asked for now.
    """
    if settled in ("helps", "hurts") and len(values) >= 2:
        shown = interval(values, prior_variance, overlap=overlap)
        clear = shown.low > 0 if settled == "helps" else shown.high < 0
        if clear and abs(shown.center) >= math.log1p(smallest_effect):
            return "helps" if settled == "helps" else "hurts"
        return "undecided"
    return judge(values, smallest_effect, comparisons, prior_variance, overlap)


def pairs_to_settle(
    values: Sequence[float], smallest_effect: float, comparisons: int, prior_variance: float | None = None,
    overlap: Overlap = NO_OVERLAP,
) -> int | None:
    """About how many more pairs would settle an undecided arm, if its estimate and noise stay as they are.

    None where no number of pairs up to ``MOST_PAIRS`` would: the estimate lies on the smallest effect itself.
    """
    n = len(values)
    if n < 2:
        return LOOKS[0] - n
    bound = math.log1p(smallest_effect)
    center, standard_error, _, _ = _location(values, prior_variance, overlap)
    spread = standard_error * math.sqrt(n)

    def settled(total: int) -> bool:
        df = max(1.0, total * (1 - 2 * TRIM) - 1) + (PRIOR_DF if prior_variance is not None else 0.0)
        error = spread / math.sqrt(total)
        shown = t_critical(0.05 / DISPLAY_LOOKS, round(df, 1)) * error
        if abs(center) + shown < bound:
            return True
        strict = t_critical(DECISION_ERROR / (len(LOOKS) * max(1, comparisons)), round(df, 1)) * error
        return abs(center) >= bound and abs(center) > max(strict, shown)

    low, high = n, MOST_PAIRS  # more pairs only ever narrow it, so the smallest number that settles can be bisected
    if not settled(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return max(high, LOOKS[0]) - n
