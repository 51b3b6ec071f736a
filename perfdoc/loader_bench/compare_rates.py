"""From rates of a DataLoader under several settings, measured in rounds, to which count of workers is fast enough.

Settings are compared round by round, as the log of the ratio of their rates, so that a machine that slows down for a while
slows both. Standard library only: the measuring process asks what is still open.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from perfdoc.core import stats

CLOSE = 0.03
"""Share of the best rate that is given up for fewer workers."""
FULL = 0.95
"""Share of the cores from which they count as busy: a twentieth is all that more workers could gain from idle ones. Two workers
that compute all the time kept 1.98 of 2 cores busy, two that waited for each other's slow samples 1.76."""
BUSIER = 1.05
"""Times as busy as with fewer workers that the cores must be for more workers to be thought faster."""
SAME_CPU = 0.9
"""Share of the CPU time a batch above which it counts as the same: caches and neighbours change it by as much."""
SURE = 1.645
"""Standard errors from a bound at which a setting counts as inside or outside: 5% on one side."""
USUAL_SPREAD = 0.06
"""Standard deviation of the log rate of one visit that is assumed before any was repeated, with the weight of ``PRIOR_DF``
repeats: what was seen on shared machines."""
PRIOR_DF = 4.0
POLISHES = 8
"""Alternations when levels of settings and rounds are fitted."""
LEAST_SPREAD = 0.01
FEWEST_FITTED = 3
"""Counts from which a curve is fitted through them."""
WORST = 2.5
"""Standard deviations that one visit counts with at most: a stalled visit must not open every question again."""

Key = TypeVar("Key", bound=Hashable)
Rates = Mapping[Key, Sequence[tuple[int, float]]]
"""Rates of each setting in batches a second, with the round in which they were measured."""
Within = Literal["yes", "no", "unclear"]


def effects(rates: Rates[Key]) -> dict[Key, float]:
    """Log rate of each setting, what its rounds had in common taken out, up to one constant.

    Alternately the level of every round and of every setting are fitted to the rest by trimmed means (Tukey's median polish
    with another mean), so that a setting that was visited while the machine was slow is not thought slow.
    """
    if not rates:
        return {}
    logs = {s: [(place, math.log(rate)) for place, rate in visits] for s, visits in rates.items()}
    rounds = {place: 0.0 for visits in logs.values() for place, _ in visits}
    found = dict.fromkeys(logs, 0.0)
    for _ in range(POLISHES):
        found = {s: stats.trimmed_mean([value - rounds[place] for place, value in visits]) for s, visits in logs.items()}
        rounds = {
            place: stats.trimmed_mean([value - found[s] for s, visits in logs.items() for r, value in visits if r == place])
            for place in rounds
        }
    middle = statistics.fmean(rounds.values())
    return {s: value + middle for s, value in found.items()}


def usual_spread(errors: Sequence[float]) -> float:
    """What is assumed of the spread of visits before any was repeated.

    ``errors``: relative standard errors of single visits' rates, from the batches within them. Where batches differ much (a
    few slow samples), a visit's rate hangs on which ones it saw.
    """
    return math.hypot(USUAL_SPREAD, statistics.median(errors)) if errors else USUAL_SPREAD


def spread(rates: Rates[Key], usual: float = USUAL_SPREAD) -> float:
    """Standard deviation of the log rate of one visit about its setting and round, pooled over all settings.

    ``usual``: what is assumed before any was repeated, with the weight of ``PRIOR_DF`` repeats.
    """
    found = effects(rates)
    by_round: dict[int, list[float]] = {}
    for setting, visits in rates.items():
        for place, rate in visits:
            by_round.setdefault(place, []).append(math.log(rate) - found[setting])
    off = [abs(value - stats.trimmed_mean(values)) for values in by_round.values() for value in values]
    df = len(off) - len(rates) - len(by_round) + 1
    if df <= 0:
        return usual
    middle = max(LEAST_SPREAD, 1.4826 * statistics.median(off) * math.sqrt(len(off) / df))
    squares = sum(min(WORST * middle, value) ** 2 for value in off)
    return math.sqrt((PRIOR_DF * usual**2 + squares) / (PRIOR_DF + df))


@dataclass(frozen=True)
class _Level:
    """How fast a setting is, as far as is known from it and from its neighbours."""

    log_rate: float
    visits: int
    """Visits that say so."""


def _levels(rates: Rates[Key], workers: Callable[[Key], int]) -> dict[Key, _Level]:
    """Level of each setting. Where they differ in workers alone, what their neighbours say counts too.

    From one worker on, the rate rises with their number up to some count and falls from there: the unimodal fit by least
    squares, weighted by visits (pooling adjacent violators from both ends, Frisen 1986, for every place of the top). Seventeen
    counts that are visited thrice each would else have a fastest one by chance.
    """
    found = effects(rates)
    alone = {s: _Level(found[s], len(rates[s])) for s in rates}
    order = sorted((s for s in rates if workers(s)), key=workers)
    if len({workers(s) for s in rates}) < len(rates) or len(order) < FEWEST_FITTED:
        return alone
    points = [(found[s], len(rates[s])) for s in order]
    fits = [[*_rising(points[:top]), *_rising(points[top:][::-1])[::-1]] for top in range(len(points) + 1)]

    def off(fit: Sequence[_Level]) -> float:
        return sum(n * (y - level.log_rate) ** 2 for (y, n), level in zip(points, fit, strict=True))

    closest = min(fits, key=off)
    return alone | dict(zip(order, closest, strict=True))


def _rising(points: Sequence[tuple[float, int]]) -> list[_Level]:
    """The least-squares fit that never falls: neighbours that would are given their mean (pool adjacent violators)."""
    pools: list[tuple[float, int, int]] = []
    for value, visits in points:
        pools.append((value, visits, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (one, n, length), (other, m, more) = pools[-2:]
            pools[-2:] = [((n * one + m * other) / (n + m), n + m, length + more)]
    return [_Level(value, visits) for value, visits, length in pools for _ in range(length)]


def fastest(rates: Rates[Key], workers: Callable[[Key], int], usual: float = USUAL_SPREAD) -> Key:
    """The setting that is fastest as far as is known: by its level less one standard error, the one visited most of those.

    Of seventeen counts that are equally fast one looks fastest by chance, most likely one that was visited once.
    """
    levels, sd, found = _levels(rates, workers), spread(rates, usual), effects(rates)
    return max(rates, key=lambda s: (levels[s].log_rate - sd / math.sqrt(levels[s].visits), len(rates[s]), found[s]))


@dataclass(frozen=True)
class _Fit(Generic[Key]):
    """How fast the settings are, and how well that is known."""

    levels: Mapping[Key, _Level]
    spread: float

    def keeps_up(self, one: Key, other: Key) -> Within:
        """Whether ``one`` has ``1 - CLOSE`` of the rate of ``other``."""
        mine, its = self.levels[one], self.levels[other]
        error = self.spread * math.sqrt(1 / mine.visits + 1 / its.visits)
        distance = (mine.log_rate - its.log_rate - math.log1p(-CLOSE)) / error
        return "yes" if distance > SURE else "no" if distance < -SURE else "unclear"


def recommended(rates: Rates[Key], workers: Callable[[Key], int], usual: float = USUAL_SPREAD) -> Key:
    """The setting with the fewest workers whose level is within ``CLOSE`` of that of the best, less its standard error.

    The top of a unimodal fit is too high: it takes what is fast by chance for the top.
    """
    levels, best = _levels(rates, workers), fastest(rates, workers, usual)
    least = levels[best].log_rate - spread(rates, usual) / math.sqrt(levels[best].visits) + math.log1p(-CLOSE)
    able = [s for s in rates if levels[s].log_rate >= least]
    fewest = min(workers(s) for s in able)
    return max((s for s in able if workers(s) == fewest), key=lambda s: levels[s].log_rate)


def not_outdone(
    rates: Rates[Key], workers: Callable[[Key], int], cpu: Mapping[Key, float], cores: float | None
) -> dict[Key, Sequence[tuple[int, float]]]:
    """The settings without those that cannot be faster than one with fewer workers that keeps the cores busy already.

    ``cpu``: CPU seconds a batch. More workers are faster only if they keep the cores busier, or a batch takes less CPU with
    them; both are known much better than the rate on a shared machine. ``cores``: those available; None: nothing is left out.
    """
    if not cores:
        return dict(rates)
    found = effects(rates)
    busy = {s: min(cores, math.exp(found[s]) * cpu[s]) for s in rates if s in cpu}
    full = [s for s in busy if busy[s] >= FULL * cores]

    def outdone(setting: Key) -> bool:
        return setting in busy and any(
            workers(f) < workers(setting) and cpu[setting] >= SAME_CPU * cpu[f] and busy[setting] <= BUSIER * busy[f]
            for f in full
        )

    return {s: visits for s, visits in rates.items() if not outdone(s)}


def unsettled(rates: Rates[Key], workers: Callable[[Key], int], usual: float = USUAL_SPREAD) -> list[Key]:
    """Settings that could change the recommendation: fewer workers that may be within reach, more that may be too fast for it.

    Empty where the answer is settled. Else the recommended one and the fastest are among them: all are compared with these.
    """
    fit = _Fit(_levels(rates, workers), spread(rates, usual))
    chosen, best = recommended(rates, workers, usual), fastest(rates, workers, usual)
    doubtful = []
    for setting in rates:
        if setting == chosen:
            continue
        if workers(setting) < workers(chosen):
            if fit.keeps_up(setting, best) != "no":
                doubtful.append(setting)
        elif fit.keeps_up(chosen, setting) != "yes":
            doubtful.append(setting)
    return list(dict.fromkeys([*doubtful, chosen, best])) if doubtful else []
