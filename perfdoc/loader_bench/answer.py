"""From what a DataLoader delivered under several settings to the answer: how many workers to use.

No torch: the report asks what came out. How settings are compared: :mod:`perfdoc.loader_bench.compare_rates`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfdoc.core import stats
from perfdoc.core.finding import Effect
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.loader_bench import compare_rates


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
        return compare_rates.usual_spread([error for row in self.rows for error in row.errors])

    @property
    def _able(self) -> dict[int, Sequence[tuple[int, float]]]:
        """Rates of the settings that can be the fastest."""
        if len({tuple((k, v) for k, v in row.setting.items() if k != "workers") for row in self.rows}) > 1:
            return dict(self._rates)
        cpu = {place: row.cpu for place, row in enumerate(self.rows) if row.cpu is not None}
        return compare_rates.not_outdone(self._rates, self._workers, cpu, self.cores)

    @property
    def recommended(self) -> Row | None:
        """The smallest count within 3% of the best; None where nothing was measured."""
        rates = self._able
        return self.rows[compare_rates.recommended(rates, self._workers, self._usual)] if rates else None

    @property
    def best(self) -> Row | None:
        """The fastest setting."""
        rates = self._able
        return self.rows[compare_rates.fastest(rates, self._workers, self._usual)] if rates else None

    @property
    def settled(self) -> bool:
        """Whether more time would not change the recommendation."""
        rates = self._able
        return bool(rates) and not compare_rates.unsettled(rates, self._workers, self._usual)

    def bounds(self, row: Row) -> tuple[float, float] | None:
        """95% interval of a rate, the spread of visits pooled over all settings; None where none was visited twice."""
        rates, place = self._rates, self.rows.index(row)
        if place not in rates or row.rate is None or max(len(visits) for visits in rates.values()) < 2:
            return None
        half = 1.96 * compare_rates.spread(rates, self._usual) / math.sqrt(len(row.visits))
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
        found = compare_rates.effects(self._rates)
        mine = found.get(self.rows.index(row))
        return None if mine is None else math.exp(mine - found[compare_rates.fastest(self._able, self._workers, self._usual)])

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
            near = f"within {compare_rates.CLOSE:.0%} of the best ({best.words}: {self.speed(best)})"
            told = (self.of_best(chosen) or 0.0) >= 1 - compare_rates.CLOSE
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
    levels = compare_rates.effects({place: row.visits for place, row in enumerate(rows) if row.visits})
    rows = [replace(row, rate=math.exp(levels[place]) if row.visits else None) for place, row in enumerate(rows)]
    return LoaderAnswer(tuple(rows), samples, demand, turns, now, demand_size, cores, duplicated)
