"""From what a DataLoader delivered under several settings to the answer: how many workers to use.

No torch: the measuring process asks what is still open, the report what came out. Settings are compared round by round, as
the log of the ratio of their rates, so that a machine that slows down for a while slows both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from perfdoc.core import stats
from perfdoc.core.finding import Effect
from perfdoc.core.measurement import Measurement, Unavailable

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


@dataclass(frozen=True)
class Row:
    """One setting, read back from a capture."""

    setting: Mapping[str, Any]
    """``workers`` and whatever else was set."""
    visits: tuple[tuple[int, float], ...] = ()
    """(round, batches a second)."""
    startup: float | None = None
    """Seconds from ``iter(loader)`` to the first batch."""
    cpu: float | None = None
    """CPU seconds a batch, of this process and the workers."""
    memory: float | None = None
    """Bytes (PSS) of all workers together, the most seen."""
    shm: float | None = None
    """Bytes in use in /dev/shm while it ran, the most seen; other programs' use is in it."""
    errors: tuple[float, ...] = ()
    """Relative standard error of the rate of single visits, from the batches within them."""
    beside: tuple[float, ...] = ()
    """Seconds a batch beside a stand-in for the step that computes on the same cores, one a visit."""
    why: str = ""
    """Why it was not measured, or what failed."""
    rate: float | None = None
    """Batches a second, what its rounds had in common taken out, so that rows can be compared; None where not measured."""

    @property
    def workers(self) -> int:
        """Number of workers."""
        return int(self.setting["workers"])

    @property
    def words(self) -> str:
        """The setting as a person would write it."""
        return words_of(self.setting)

    @property
    def cores(self) -> float | None:
        """CPU cores that were busy with it."""
        return self.cpu * self.rate if self.cpu is not None and self.rate is not None else None


_NAMES = {
    "workers": "num_workers", "prefetch": "prefetch_factor", "persistent": "persistent_workers",
    "context": "multiprocessing_context",
}
_FLAGS = ("pin_memory", "persistent", "in_order")


def words_of(setting: Mapping[str, Any]) -> str:
    """A setting as DataLoader arguments."""
    return ", ".join(
        f"{_NAMES.get(name, name)}={bool(value) if name in _FLAGS else value!r}" for name, value in setting.items()
    )


@dataclass(frozen=True)
class LoaderAnswer:
    """All that a benched loader is told about."""

    rows: tuple[Row, ...]
    samples: Mapping[int | None, float]
    """Samples a batch, by the batch size that was set (None: the user's own)."""
    demand: float | None
    """Batches a second that the step takes where it never waits; None where it is not known."""
    turns: Mapping[str, tuple[float, ...]]
    """Seconds of an epoch's turn under the recommended setting, by kind: ``respawned``, ``persistent``."""
    now: int | None
    """Workers that the loader has."""
    demand_size: float | None = None
    """Samples in a batch of the step that the demand is of."""
    cores: float | None = None
    """CPU cores available to the loader."""
    duplicated: bool = False
    """Whether every worker of a stream delivers the same data, so that rates count copies."""

    @property
    def _rates(self) -> dict[int, tuple[tuple[int, float], ...]]:
        """In samples where the batch size was varied: batches of different sizes cannot be compared."""
        sized = len({row.setting.get("batch_size") for row in self.rows}) > 1
        return {
            place: tuple((r, rate * (self.batch_samples(row) or 1.0) if sized else rate) for r, rate in row.visits)
            for place, row in enumerate(self.rows) if row.visits and not row.why
        }

    def batch_samples(self, row: Row) -> float | None:
        """Samples in a batch of that setting."""
        return self.samples.get(row.setting.get("batch_size"))

    def _workers(self, place: int) -> int:
        return self.rows[place].workers

    @property
    def _usual(self) -> float:
        return usual_spread([error for row in self.rows for error in row.errors])

    @property
    def _able(self) -> dict[int, Sequence[tuple[int, float]]]:
        """Rates of the settings that can be the fastest."""
        if len({tuple((k, v) for k, v in row.setting.items() if k != "workers") for row in self.rows}) > 1:
            return dict(self._rates)
        cpu = {place: row.cpu for place, row in enumerate(self.rows) if row.cpu is not None}
        return not_outdone(self._rates, self._workers, cpu, self.cores)

    @property
    def recommended(self) -> Row | None:
        """The smallest count within 3% of the best; None where nothing was measured."""
        rates = self._able
        return self.rows[recommended(rates, self._workers, self._usual)] if rates else None

    @property
    def best(self) -> Row | None:
        """The fastest setting."""
        rates = self._able
        return self.rows[fastest(rates, self._workers, self._usual)] if rates else None

    @property
    def settled(self) -> bool:
        """Whether more time would not change the recommendation."""
        rates = self._able
        return bool(rates) and not unsettled(rates, self._workers, self._usual)

    def bounds(self, row: Row) -> tuple[float, float] | None:
        """95% interval of a rate, the spread of visits pooled over all settings; None where none was visited twice."""
        rates, place = self._rates, self.rows.index(row)
        if place not in rates or row.rate is None or max(len(visits) for visits in rates.values()) < 2:
            return None
        half = 1.96 * spread(rates, self._usual) / math.sqrt(len(row.visits))
        return row.rate * stats.ratio_of(-half), row.rate * stats.ratio_of(half)

    @property
    def enough(self) -> Row | None:
        """The setting with the fewest workers that meets the demand of the step; None where none does or it is unknown."""
        if self.demand is None:
            return None
        able = [row for row in self.rows if row.rate is not None and not row.why and self.meets(row)]
        return min(able, key=lambda row: row.workers, default=None)

    def meets(self, row: Row) -> bool:
        """Whether the setting delivers at least what the step takes."""
        if self.demand is None or row.rate is None:
            return False
        size = self.batch_samples(row)
        if row.setting.get("batch_size") and size and self.demand_size:
            return row.rate * size >= self.demand * self.demand_size
        return row.rate >= self.demand

    def of_best(self, row: Row) -> float | None:
        """Share of the fastest setting's rate, differences between rounds taken out."""
        found = effects(self._rates)
        mine = found.get(self.rows.index(row))
        return None if mine is None else math.exp(mine - found[fastest(self._able, self._workers, self._usual)])

    @property
    def own(self) -> Row | None:
        """The setting that the loader has now, where it was measured."""
        return next((row for row in self.rows if row.setting == {"workers": self.now}), None)

    def beside(self, row: Row) -> stats.Interval | None:
        """Log speed-up of the step over the loader's own setting, both beside the stand-in, in turns; None if unknown.

        95% by Student's t over the pairs of visits, whose number is not chosen by what they say.
        """
        own = self.own
        if own is None or row is own:
            return None
        pairs = [math.log(before / after) for before, after in zip(own.beside, row.beside, strict=False)]
        if len(pairs) < 2:
            return None
        center = statistics.fmean(pairs)
        half = stats.t_critical(0.05, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        return stats.Interval(center, center - half, center + half, len(pairs))

    @property
    def sentence(self) -> str:
        """The answer in one line."""
        chosen, best = self.recommended, self.best
        if chosen is None or best is None or chosen.rate is None or best.rate is None:
            return "No setting delivered a batch."
        shown = f"{chosen.words}: {self.speed(chosen)}"
        if chosen is best and any((self.of_best(row) or 0.0) > 1 for row in self.rows if row is not best):
            text = (f"{shown}, which keeps {self.cores:g} cores busy; more workers do not keep them busier, so their rates are "
                    "taken for noise")
        elif chosen is best:
            text = f"{shown}, the fastest of what was measured"
        else:
            near = f"within {CLOSE:.0%} of the best ({best.words}: {self.speed(best)})"
            told = (self.of_best(chosen) or 0.0) >= 1 - CLOSE
            text = f"{shown}, the fewest workers {near}" if told else f"{shown}, the fewest workers that may be {near}"
        if not self.settled:
            text += "; not settled, more --budget could change it"
        if self.duplicated:
            text += "; but every worker delivers the whole stream, so counts above 1 deliver copies"
        if self.demand is None:
            return text + "."
        enough = self.enough
        text += f". The step takes {self.demand:.3g} batches/s"
        if enough is None:
            text += ": no setting delivers that, so the loader holds it back with every one of them."
        elif enough.workers < chosen.workers:
            text += f": {enough.words} is enough for it."
        else:
            text += ", which that delivers."
        beside = self.beside(chosen)
        if beside is not None and beside.high < 0:
            words = Effect(*beside.speedup, beside.pairs).words
            text += f" Beside it, on the same cores, {chosen.words} would make it slower: {words}."
        return text

    def speed(self, row: Row) -> str:
        """The rate in samples, or batches, a second."""
        size = self.batch_samples(row)
        assert row.rate is not None
        return f"{row.rate * size:.4g} samples/s" if size else f"{row.rate:.3g} batches/s"

    def to_json(self) -> dict[str, Any]:
        """The answer as ``--json`` prints it."""
        def row(found: Row) -> dict[str, Any]:
            bounds, size, beside = self.bounds(found), self.batch_samples(found), self.beside(found)
            return {
                **found.setting, "batches_per_second": found.rate, "interval": list(bounds) if bounds else None,
                "samples_per_second": found.rate * size if found.rate and size else None, "of_best": self.of_best(found),
                "visits": len(found.visits), "seconds_to_first_batch": found.startup, "cpu_cores": found.cores,
                "worker_memory": found.memory, "shared_memory": found.shm,
                "meets_demand": self.meets(found) if self.demand else None, "why": found.why,
                "seconds_beside_step": statistics.median(found.beside) if found.beside else None,
                "speedup_beside_step": list(beside.speedup) if beside else None,
                "speedup_beside_step_known": Effect(*beside.speedup, beside.pairs).known if beside else None,
            }

        chosen, enough = self.recommended, self.enough
        return {
            "answer": self.sentence, "recommended": dict(chosen.setting) if chosen else None, "settled": self.settled,
            "enough_for_the_step": dict(enough.setting) if enough else None, "batches_per_second_needed": self.demand,
            "workers_now": self.now, "epoch_turn": {kind: list(found) for kind, found in self.turns.items()},
            "rows": [row(found) for found in self.rows],
        }


BY_SETTING = (
    "loader.rate", "loader.rate_error", "loader.round", "loader.startup", "loader.cpu", "loader.worker_memory", "loader.shm",
    "loader.beside",
)
"""Metrics whose conditions are a setting."""


def setting_name(setting: Mapping[str, Any]) -> str:
    """Name of a setting among what failed or was left out of a run."""
    return "loader " + ",".join(f"{name}={value}" for name, value in setting.items())


def _setting_from(name: str) -> dict[str, Any]:
    parts = (part.split("=", 1) for part in name.removeprefix("loader ").split(","))
    return {key: int(value) if value.lstrip("-").isdigit() else value for key, value in parts}


def read(measurements: Sequence[Measurement | Unavailable], failed: Mapping[str, str]) -> LoaderAnswer | None:
    """The answer from a capture's measurements and what failed in it; None where no loader was benched."""
    by_setting: dict[str, dict[str, Measurement]] = {}
    settings: dict[str, dict[str, Any]] = {}
    samples: dict[int | None, float] = {}
    turns: dict[str, tuple[float, ...]] = {}
    demand, demand_size, now, cores, duplicated = None, None, None, None, False
    for found in measurements:
        if isinstance(found, Unavailable):
            continue
        if found.metric == "loader.demand":
            demand = found.median
            given = found.conditions.get("batch_size")
            demand_size = None if given is None else float(given)
        elif found.metric == "loader.cores":
            cores = found.median
        elif found.metric == "iterable.duplicated":
            duplicated = found.median == 1
        elif found.metric == "loader.num_workers":
            now = int(found.median)
        elif found.metric == "loader.batch_samples":
            size = found.conditions.get("batch_size")
            samples[None if size is None else int(size)] = found.median
        elif found.metric == "loader.epoch_turn":
            turns[str(found.conditions["kind"])] = found.samples
        elif found.metric in BY_SETTING:
            name = setting_name(found.conditions)
            settings[name] = dict(found.conditions)
            by_setting.setdefault(name, {})[found.metric] = found
    for name in failed:
        if name.startswith("loader "):
            settings.setdefault(name, _setting_from(name))
    if not settings:
        return None
    rows = []
    for name, setting in settings.items():
        had = by_setting.get(name, {})
        rate, rounds = had.get("loader.rate"), had.get("loader.round")
        visits = tuple(zip((int(r) for r in rounds.samples), rate.samples, strict=False)) if rate and rounds else ()

        def value(metric: str, how: Callable[[Sequence[float]], float], had: dict[str, Measurement] = had) -> float | None:
            return how(had[metric].samples) if metric in had else None

        rows.append(Row(
            setting, visits, value("loader.startup", statistics.median), value("loader.cpu", statistics.median),
            value("loader.worker_memory", max), value("loader.shm", max),
            had["loader.rate_error"].samples if "loader.rate_error" in had else (),
            had["loader.beside"].samples if "loader.beside" in had else (), failed.get(name, ""),
        ))
    rows.sort(key=lambda row: ([str(v) for k, v in row.setting.items() if k != "workers"], row.workers))
    levels = effects({place: row.visits for place, row in enumerate(rows) if row.visits})
    rows = [replace(row, rate=math.exp(levels[place]) if row.visits else None) for place, row in enumerate(rows)]
    return LoaderAnswer(tuple(rows), samples, demand, turns, now, demand_size, cores, duplicated)
