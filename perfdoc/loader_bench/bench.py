"""Measures a DataLoader without the model, under several settings: how fast it delivers in steady state, and what that costs.

Where the model computes on the same cores, also what a step takes with the settings that matter, beside a stand-in for it.

Runs in the user's process, so it needs nothing beyond torch. Every visit to a setting starts a loader of its own (a twin of
the user's: same data set, sampler, collate function), waits until what it prefetched while starting is used up, times
whole bursts of its workers, and ends it, so that no worker of one setting takes CPU from another. The visits of a round come
in random order and are compared within the round (:mod:`perfdoc.loader_bench.compare_rates`).
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from time import perf_counter, process_time
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable, Unit
from perfdoc.inject.feed import twin
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import process_use
from perfdoc.inject.system.batches import tensors_in
from perfdoc.inject.system.cores import available_cores
from perfdoc.inject.system.random_state import RandomState
from perfdoc.loader_bench import compare_rates
from perfdoc.loader_bench.synthetic_load import StandIn

FIRST_WINDOW = 0.5
"""Seconds that the first visit to a setting times at least."""
WINDOW = 1.0
"""Seconds of later visits."""
LONGEST_WINDOW = 3.0
"""Seconds of later visits where batches differ much."""
FEWEST_BURSTS = 4
"""Bursts of a visit from which its error is told."""
SLOWEST_BATCH = 30.0
"""Seconds without a batch after which a worker is taken to hang (a longer time-out of the user's own is kept)."""
TIMED_OUT = "DataLoader timed out"
"""How torch begins the error of a worker that delivers nothing."""
VISIT_SHARE = 0.2
"""Share of the budget that one visit may be expected to take: a setting that needs longer is not tried."""
MEMORY_A_WORKER = 512 * 2**20
"""Bytes taken for a worker before one was measured: an upper bound for what a forked worker usually copies."""
SHARE_OF_FREE = 0.8
"""Share of what is free that workers may take."""
HANDLES_A_WORKER = 6
"""File handles of the training process for a worker's queues, its pipe and its sentinel."""
FEWEST_VISITS = 3
"""Visits to the recommended setting before measuring may end early."""
TURNS_SHARE = 0.1
"""Share of the budget that is kept for timing the turn of an epoch."""
TURNS = 3
"""Turns of an epoch that are timed, of either kind."""
BESIDE_SHARE = 0.15
"""Share of the budget that is kept for measuring beside the step; what is left of the rest goes there too."""
BESIDE_VISITS, FEWEST_BESIDE = 6, 2
"""Visits to a setting there at most, and the fewest that have an interval."""
FEWER = 2
"""Smaller counts than the recommended one that are measured there: beside the step fewer workers may do."""


@dataclass(frozen=True)
class Setting:
    """One setting of a loader; None leaves what the user has."""

    workers: int
    prefetch: int | None = None
    pin_memory: bool | None = None
    persistent: bool | None = None
    batch_size: int | None = None
    context: str | None = None
    in_order: bool | None = None

    @property
    def conditions(self) -> dict[str, str | int | float]:
        """What was set, as conditions of a measurement."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: int(value) if isinstance(value, bool) else value for name, value in found.items() if value is not None}


@dataclass
class Visits:
    """What was measured of one setting."""

    setting: Setting
    rates: list[tuple[int, float]] = field(default_factory=list)
    """(round, batches a second)."""
    starts: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Relative standard error of the rate of a visit, from the batches within it."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds a batch."""
    seconds: list[float] = field(default_factory=list)
    """How long whole visits took."""
    memory: int | None = None
    failed: str = ""

    @property
    def rate(self) -> float:
        """Batches a second, the median of the visits; 0 before the first."""
        return statistics.median(rate for _, rate in self.rates) if self.rates else 0.0


Tell = Callable[["Measurement | Unavailable"], None]
"""Called with every measurement as soon as it is taken."""


class LoaderBench:
    """Visits settings of ``loader`` in rounds until the answer is settled or ``budget`` seconds are spent.

    ``compute``: seconds a batch that the training step computes on the same cores as the loader; None: elsewhere, or unknown.
    ``tell``: called with every measurement; ``not_tried``: with a setting and why it failed or was left out; ``progress``:
    with the setting that comes next and the seconds left. Raises PerfdocError where no setting delivers a batch.
    """

    def __init__(
        self, loader: Any, settings: Sequence[Setting], budget: float, tell: Tell,
        not_tried: Callable[[Setting, str], None] = lambda setting, why: None,
        progress: Callable[[Setting, float], None] = lambda setting, left: None,
        seed: int = 0,
        compute: float | None = None,
    ) -> None:
        self.loader = loader
        self.budget = budget
        self.compute = compute
        self.visits = {setting: Visits(setting) for setting in settings}
        self._tell = tell
        self._not_tried = not_tried
        self._progress = progress
        self._random = random.Random(seed)
        self._numbers = RandomState(loader)
        self._seed = seed
        self._round = 0
        self._batch_bytes = 0
        self._tensors = 1
        self._told_size: set[int | None] = set()
        self._cores = available_cores()
        self._hangs: tuple[str | None, ...] = ()
        self._end = perf_counter() + budget

    # -- which setting when

    def run(self) -> None:
        """The whole measurement. Random number generators are as before when it returns or raises."""
        try:
            self._run()
        finally:
            self._numbers.restore()

    def _run(self) -> None:
        kept = TURNS_SHARE + BESIDE_SHARE * (self.compute is not None)
        self._end = perf_counter() + (1 - kept) * self.budget
        self._tell(Measurement("loader.cores", "count", (self._cores,), {}, "measured in isolation"))
        first = self._coarse()
        self._warm(first[0])
        # The smallest counts come first, as they tell what a worker takes of the memory; the others in random order.
        later = first[2:]
        self._random.shuffle(later)
        for setting in [*first[:2], *later]:
            if perf_counter() < self._end or setting in first[:2]:
                self._visit(setting, FIRST_WINDOW)
        if not any(found.rates for found in self.visits.values()):
            reasons = {found.failed for found in self.visits.values() if found.failed}
            raise PerfdocError("the loader delivers no batch: " + ("; ".join(sorted(reasons)) or "the budget is too small"))
        while perf_counter() < self._end and self._rates():
            open_ones = self._open()
            if not open_ones:
                break
            self._round += 1
            self._random.shuffle(open_ones)
            for setting in open_ones:
                if perf_counter() < self._end:
                    self._visit(setting, self._window())
        if not self._rates():
            reasons = {found.failed for found in self.visits.values() if found.failed}
            raise PerfdocError("the loader fails with every setting: " + "; ".join(sorted(reasons)))
        self._turns()
        self._beside()

    def _warm(self, setting: Setting) -> None:
        """A stretch that does not count: what comes first would read files that later visits find in the page cache."""
        began = perf_counter()
        try:
            with Unchanged(self.loader.dataset):
                iterator = _Endless(self._twin(setting, twin.Endless))
                try:
                    while perf_counter() - began < FIRST_WINDOW:
                        iterator.next()
                finally:
                    iterator.close()
        except Exception:  # the visits tell what is wrong
            return

    def _coarse(self) -> list[Setting]:
        """The first round, fewest workers first: every setting where they are few, else counts that double."""
        counts = sorted({s.workers for s in self.visits})
        wanted = set(counts)
        if len(counts) > 6:
            cores = math.floor(available_cores())
            doubling = {0, 1, cores, *(2**n for n in range(1, 12))}
            wanted = {n for n in counts if n in doubling} | {counts[0], counts[-1]}
        return sorted((s for s in self.visits if s.workers in wanted), key=lambda s: s.workers)

    def _open(self) -> list[Setting]:
        """Settings that the next round visits: those that could change the answer, and untried neighbours of its pillars."""
        rates = self._able()
        best = compare_rates.fastest(rates, lambda s: s.workers, self._usual())
        chosen = compare_rates.recommended(rates, lambda s: s.workers, self._usual())
        untried = list(dict.fromkeys(s for place in (best, chosen) for s in self._neighbours(place)))
        doubtful = compare_rates.unsettled(rates, lambda s: s.workers, self._usual())
        if untried:
            return list(dict.fromkeys([*untried, *doubtful, best]))
        if not doubtful and len(rates[chosen]) < FEWEST_VISITS:
            return sorted(rates, key=lambda s: -self.visits[s].rate)[:3]  # one visit each is no answer, however clear it looks
        return doubtful

    def _usual(self) -> float:
        return compare_rates.usual_spread([error for found in self.visits.values() for error in found.errors])

    def _window(self) -> float:
        """Seconds of a visit: more where batches differ so much that one second does not tell the rate."""
        return min(LONGEST_WINDOW, WINDOW * (self._usual() / compare_rates.USUAL_SPREAD) ** 2)

    def _able(self) -> dict[Setting, Sequence[tuple[int, float]]]:
        """Rates of the settings that can be the fastest, as the answer will see them."""
        rates = self._rates()
        if len({replace(s, workers=0) for s in rates}) > 1:
            return dict(rates)
        cpu = {s: statistics.median(self.visits[s].cpu) for s in rates if self.visits[s].cpu}
        return compare_rates.not_outdone(rates, lambda s: s.workers, cpu, self._cores)

    def _rates(self) -> dict[Setting, list[tuple[int, float]]]:
        """Rates so far, in samples: batches of different sizes are compared too."""
        return {
            s: [(place, rate * (s.batch_size or 1)) for place, rate in found.rates]
            for s, found in self.visits.items() if found.rates and not found.failed
        }

    def _neighbours(self, place: Setting) -> list[Setting]:
        """Halfway to the next counts that were tried on either side, where something lies between."""
        alike = sorted((s for s in self.visits if replace(s, workers=0) == replace(place, workers=0)), key=lambda s: s.workers)
        at = alike.index(place)
        found = []
        for side in (alike[:at][::-1], alike[at + 1 :]):
            between = list(itertools.takewhile(lambda s: not self.visits[s].rates and not self.visits[s].failed, side))
            if between:
                found.append(between[len(between) // 2] if len(between) > 2 else between[0])
        return found

    # -- one visit

    def _visit(self, setting: Setting, window: float) -> None:
        found = self.visits[setting]
        if found.failed:
            return
        why = self._no_room(setting) or self._too_slow(setting, window)
        if setting.workers and self._hangs == (setting.context,):
            why = "workers hang: another count was waited for in vain"
        if why:
            if not found.rates:
                found.failed = why
                self._not_tried(setting, f"not tried: {why}")
            return
        self._progress(setting, self._end - perf_counter())
        began = perf_counter()
        iterator = None
        # Without workers samples are made here: what they open must not be shared by workers that are forked later.
        unchanged: Any = nullcontext() if setting.workers else Unchanged(self.loader.dataset)
        try:
            # All settings of a round are given the same batches, so that none is fast because it saw easy ones.
            self._numbers.seed(self._seed + self._round)
            with unchanged:
                iterator = _Endless(self._twin(setting, twin.Endless))
                self._told_start(found, iterator)
                self._steady(found, iterator, window)
        except Exception as error:  # the user's data set, in this process or in a worker: the other settings go on
            found.failed = _in_words(error, self._patience)
            self._hangs = self._hangs or ((setting.context,) if TIMED_OUT in str(error) else ())
            self._not_tried(setting, found.failed)
        finally:
            if iterator is not None:
                with suppress(Exception):  # workers that died cannot be ended once more
                    iterator.close()
            found.seconds.append(perf_counter() - began)

    def _told_start(self, found: Visits, iterator: _Endless) -> None:
        start = perf_counter()
        batch = iterator.next()
        found.starts.append(perf_counter() - start)
        self._say("loader.startup", "s", found.starts[-1], found)
        if found.setting.batch_size not in self._told_size:
            self._told_size.add(found.setting.batch_size)
            tensors = tensors_in(batch)
            self._batch_bytes = max(self._batch_bytes, sum(t.numel() * t.element_size() for t in tensors))
            self._tensors = max(self._tensors, len(tensors))
            size = _samples(batch, iterator.twin)
            if size:
                known = {} if found.setting.batch_size is None else {"batch_size": found.setting.batch_size}
                self._tell(Measurement("loader.batch_samples", "count", (float(size),), known, "measured in isolation"))
        for _ in range(found.setting.workers):  # the first burst was made while the others were starting
            iterator.next()

    def _steady(self, found: Visits, iterator: _Endless, window: float) -> None:
        burst = max(1, found.setting.workers)
        pids = iterator.pids
        before, cpu, start = process_use.cpu_seconds(pids), process_time(), perf_counter()
        ends = [0.0]
        while ends[-1] < window:
            for _ in range(burst):
                iterator.next()
            ends.append(perf_counter() - start)
        seconds, count = ends[-1], (len(ends) - 1) * burst
        mine, after = process_time() - cpu, process_use.cpu_seconds(pids)
        found.rates.append((self._round, count / seconds))
        self._say("loader.rate", "1/s", count / seconds, found)
        self._say("loader.round", "count", float(self._round), found)
        if len(ends) > FEWEST_BURSTS:
            each = [b - a for a, b in itertools.pairwise(ends)]
            found.errors.append(statistics.stdev(each) / statistics.fmean(each) / math.sqrt(len(each)))
            self._say("loader.rate_error", "1", found.errors[-1], found)
        if before is not None and after is not None:
            found.cpu.append((mine + after - before) / count)
            self._say("loader.cpu", "s", found.cpu[-1], found)
        memory = process_use.proportional_memory(pids) if pids else 0
        if memory is not None:
            found.memory = max(found.memory or 0, memory)
            self._say("loader.worker_memory", "B", float(memory), found)
        shm = process_use.shared_memory()
        if shm is not None and pids:
            self._say("loader.shm", "B", float(shm[0]), found)

    def _say(self, metric: str, unit: Unit, value: float, found: Visits) -> None:
        self._tell(Measurement(metric, unit, (value,), found.setting.conditions, "measured in isolation"))

    @property
    def _patience(self) -> float:
        """Seconds without a batch after which a worker hangs: the user's own time-out, or several of the slowest batch seen."""
        slowest = max((start for found in self.visits.values() for start in found.starts), default=0.0)
        return float(self.loader.timeout or max(SLOWEST_BATCH, 5 * slowest))

    def _twin(self, setting: Setting, wrap: Callable[[Any], Any], persistent: bool = False) -> Any:
        loader = self.loader
        changes: dict[str, Any] = {"timeout": self._patience if setting.workers else 0}
        if setting.prefetch is not None and setting.workers:
            changes["prefetch_factor"] = setting.prefetch
        if setting.pin_memory is not None:
            changes["pin_memory"] = setting.pin_memory
        if setting.in_order is not None:
            changes["in_order"] = setting.in_order
        if setting.context is not None and setting.workers:
            changes["_DataLoader__multiprocessing_context"] = torch.multiprocessing.get_context(setting.context)
        wrapped = wrap
        if setting.batch_size is not None:
            batches = getattr(loader, "batch_sampler", None)
            if isinstance(loader.dataset, IterableDataset):
                changes["batch_size"] = setting.batch_size
            elif not _is_plain(batches):
                raise PerfdocError("the batches are formed by the loader's own batch_sampler: their size cannot be changed")
            else:
                make: Any = BatchSampler

                def wrapped(sampler: Any) -> Any:
                    return make(wrap(sampler.sampler), setting.batch_size, sampler.drop_last)
        return twin.twin(loader, setting.workers, wrapped, persistent or bool(setting.persistent), changes)

    # -- what the machine allows

    def _no_room(self, setting: Setting) -> str:
        """Why so many workers would not fit this machine; empty where they do."""
        workers = setting.workers
        if not workers:
            return ""
        known = {s.workers: found.memory / s.workers for s, found in self.visits.items() if found.memory and s.workers}
        # What workers share with the training process counts the less, the more they are: the largest count tells most.
        each = known[max(known)] * 1.2 if known else MEMORY_A_WORKER
        free = process_use.free_memory()
        if free is not None and workers * each > SHARE_OF_FREE * free:
            said = "measured" if known else "taken before one is measured"
            return f"{workers} workers of {each / 2**20:.0f} MiB ({said}) do not fit the {free / 2**20:.0f} MiB of free memory"
        prefetch = setting.prefetch or self.loader.prefetch_factor or 2
        shm = process_use.shared_memory()
        if shm is not None and workers * prefetch * self._batch_bytes > SHARE_OF_FREE * shm[1]:
            return (
                f"{workers} workers x {prefetch} batches of {self._batch_bytes / 2**20:.3g} MiB do not fit the "
                f"{shm[1] / 2**20:.0f} MiB that are free in {process_use.SHM}"
            )
        handles = process_use.free_handles()
        needed = workers * (HANDLES_A_WORKER + prefetch * self._tensors)
        if handles is not None and needed > SHARE_OF_FREE * handles:
            return f"{workers} workers need about {needed} file handles, {handles} are free (ulimit -n)"
        return ""

    def _too_slow(self, setting: Setting, window: float) -> str:
        """Why a first visit would take too much of the budget, judged by the settings that were visited; else empty."""
        found = self.visits[setting]
        left = self._end - perf_counter()
        if found.seconds:
            return "" if found.seconds[-1] < left else "no time is left"
        known = [other for other in self.visits.values() if other.rates]
        if not known:
            return ""
        best = max(other.rate for other in known)
        most = max(known, key=lambda other: other.setting.workers)
        starting = most.starts[-1] * max(1.0, setting.workers / max(1, most.setting.workers))
        expected = starting + max(window, 2 * setting.workers / best)
        if expected > max(VISIT_SHARE * self.budget, 2 * window) or expected > left + window:
            return f"a visit would take about {expected:.0f} s of a budget of {self.budget:.0f} s"
        return ""

    # -- the turn of an epoch

    def _turns(self) -> None:
        """Seconds from the end of an epoch to the first batch of the next, for the recommended count, both ways."""
        if isinstance(self.loader.dataset, IterableDataset):
            return  # its epochs cannot be cut short
        rates = self._able()
        if not rates:
            return
        chosen = compare_rates.recommended(rates, lambda s: s.workers, self._usual())
        found = self.visits[chosen]
        kinds = (False, True) if chosen.workers else (False,)
        cost = (2 * statistics.median(found.starts) + chosen.workers / found.rate) * TURNS * len(kinds)
        if cost > max(2.0, TURNS_SHARE * self.budget):
            return
        batches = max(2, chosen.workers)
        try:
            for persistent in kinds:
                # Where a batch size is set, the sampler inside of the batches is what is cut short.
                items = batches * (chosen.batch_size or 1)
                clone = self._twin(chosen, partial(twin.Short, count=items), persistent)
                self._turn_of(clone, batches, chosen, persistent)
        except Exception as error:  # a sampler that cannot be cut short: the answer does not rest on this
            self._tell(Unavailable("loader.epoch_turn", f"{type(error).__name__}: {error}"))


    def _turn_of(self, clone: Any, batches: int, chosen: Setting, persistent: bool) -> None:
        iterator = twin.start(clone, DataLoader.__iter__)
        try:
            for _ in range(TURNS):
                for _ in range(batches):
                    twin.original_next(iterator)
                began = perf_counter()  # ending the workers is part of the turn
                with suppress(StopIteration):
                    twin.original_next(iterator)
                iterator = twin.start(clone, DataLoader.__iter__)
                twin.original_next(iterator)
                kind = "persistent" if persistent else "respawned"
                self._tell(Measurement("loader.epoch_turn", "s", (perf_counter() - began,),
                                       {**chosen.conditions, "kind": kind}, "measured in isolation"))
                batches = max(1, len(clone.batch_sampler)) - 1 if clone.batch_sampler is not None else batches - 1
        finally:
            twin.stop(iterator)

    # -- beside the step

    def _beside(self) -> None:
        """What a step takes with the user's own count, the recommended one and a few below it, visited in turns."""
        rates = self._able()
        if self.compute is None or not rates:
            return
        chosen = compare_rates.recommended(rates, lambda s: s.workers, self._usual())
        own = Setting(self.loader.num_workers)
        if chosen.batch_size is not None or (own in self.visits and self.visits[own].failed):
            return  # for how long the step computes on other batches is not known, or there is nothing to compare with
        fewer = sorted((s for s in rates if s.workers < chosen.workers and s != own), key=lambda s: -s.workers)
        places = list(dict.fromkeys([own, chosen, *fewer[:FEWER]]))
        if len(places) < 2:
            return
        window = min(WINDOW, BESIDE_SHARE * self.budget / (FEWEST_BESIDE * len(places)))
        cost = FEWEST_BESIDE * math.fsum(window + self._seconds_to_settle(place, self.compute) for place in places)
        if cost > max(2.0, 2 * BESIDE_SHARE * self.budget):
            self._tell(Unavailable("loader.beside", f"needs about {cost:.0f} s of a budget of {self.budget:.0f} s"))
            return
        stand_in = StandIn(self.compute)
        began = perf_counter()
        end = max(began, self._end) + BESIDE_SHARE * self.budget
        for visit in range(BESIDE_VISITS):
            each = (perf_counter() - began) / visit if visit else 0.0
            if visit >= FEWEST_BESIDE and perf_counter() + each > end:
                return
            self._random.shuffle(places)
            for setting in places:
                self._progress(setting, end - perf_counter())
                try:
                    seconds = self._beside_step(setting, stand_in, visit, window)
                except Exception as error:  # as in a visit: what else was measured stays
                    why = _in_words(error, self._patience)
                    self._tell(Unavailable("loader.beside", f"num_workers={setting.workers}: {why}"))
                    return
                self._tell(Measurement("loader.beside", "s", (seconds,), setting.conditions, "measured in isolation"))

    def _stock(self, setting: Setting) -> int:
        """Batches that workers make while they are starting, and one more of each."""
        return max(1, setting.workers) * (1 + (setting.prefetch or self.loader.prefetch_factor or 2))

    def _seconds_to_settle(self, setting: Setting, compute: float) -> float:
        """About how long it takes until a setting is in steady state beside the step."""
        found = self.visits.get(setting)
        if found is None or not found.rates:
            return 0.0  # the user's own count, which runs all day
        each = 1 / found.rate + (0.0 if setting.workers else compute)
        return statistics.median(found.starts) + self._stock(setting) * max(compute, each)

    def _beside_step(self, setting: Setting, stand_in: StandIn, visit: int, window: float) -> float:
        """Seconds a batch in steady state, the stand-in's work included."""
        self._numbers.seed(self._seed + visit)
        unchanged: Any = nullcontext() if setting.workers else Unchanged(self.loader.dataset)
        with unchanged:
            iterator = _Endless(self._twin(setting, twin.Endless))
            try:
                burst = max(1, setting.workers)
                for _ in range(self._stock(setting)):
                    iterator.next()
                    stand_in()
                start, count = perf_counter(), 0
                while perf_counter() - start < window:
                    for _ in range(burst):
                        iterator.next()
                        stand_in()
                    count += burst
                return (perf_counter() - start) / count
            finally:
                with suppress(Exception):  # workers that died cannot be ended once more
                    iterator.close()


class _Endless:
    """Batches of a twin without end, also where its data set is an IterableDataset that comes to its end."""

    def __init__(self, clone: Any) -> None:
        self.twin = clone
        self._iterator = twin.start(clone)

    @property
    def pids(self) -> list[int]:
        """Process ids of its workers."""
        return [worker.pid for worker in getattr(self._iterator, "_workers", ())]

    def next(self) -> Any:
        """The next batch; StopIteration as an error where there is none at all."""
        for _ in range(2):
            try:
                return twin.original_next(self._iterator)
            except StopIteration:
                self.close()
                self._iterator = twin.start(self.twin)
        raise PerfdocError("the data set is empty")

    def close(self) -> None:
        """End its workers."""
        twin.stop(self._iterator)


def _is_plain(batches: Any) -> bool:
    """Whether batches are formed by torch's own sampler, not by one of the user's."""
    return type(batches) is BatchSampler


def _samples(batch: Any, clone: Any) -> int | None:
    """Samples in a batch: as the loader forms them, else the first dimension of its first tensor."""
    size = getattr(getattr(clone, "batch_sampler", None), "batch_size", None) or clone.batch_size
    if isinstance(size, int):
        return size
    first = next((t for t in tensors_in(batch) if t.dim()), None)
    return None if first is None else int(first.shape[0])


def _in_words(error: Exception, patience: float) -> str:
    """What went wrong with a setting, in one line that says what to do where that is known."""
    text = str(error).strip()
    last = text.splitlines()[-1] if text else ""
    if text.startswith(TIMED_OUT):
        return (
            f"no batch came for {patience:.0f} s: a worker hangs (often a lock, a connection or a thread pool made before "
            "the workers were forked; make it in the first __getitem__, or try --multiprocessing-context spawn)"
        )
    if "killed by signal" in text or "exited unexpectedly" in text:
        how = "Killed" if "Killed" in text else last
        if "Bus error" in text:
            return "a worker was ended by a bus error: /dev/shm is full (Docker: --shm-size)"
        return f"a worker died ({how}): most often the system's out-of-memory killer; fewer workers need less memory"
    if type(error).__name__ == "PicklingError" or "pickle" in last.lower():
        return f"the data set cannot be sent to workers that are spawned: {last}"
    name = type(error).__name__
    return last if last.startswith(f"{name}: ") else f"{name}: {last}"  # what a worker raised comes with its own traceback


def open_resources(dataset: Any, depth: int = 2) -> list[str]:
    """What the data set holds open that forked workers would share: ``name: kind``, nested data sets included."""
    import io
    import socket
    import sqlite3

    found = []
    for name, value in list(getattr(dataset, "__dict__", {}).items()):
        kind = f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
        if isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO) and not value.closed:
            found.append(f"{name}: an open file ({getattr(value, 'name', kind)})")
        elif isinstance(value, sqlite3.Connection | sqlite3.Cursor | socket.socket):
            found.append(f"{name}: an open connection ({kind})")
        elif kind in ("h5py.File", "lmdb.Environment", "h5py.Dataset", "zipfile.ZipFile", "tarfile.TarFile",
                      "psycopg2.connection", "pymysql.Connection", "redis.Redis", "netCDF4.Dataset"):
            found.append(f"{name}: an open {kind}")
        elif depth and hasattr(value, "__getitem__") and hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
            found += [f"{name}.{inner}" for inner in open_resources(value, depth - 1)]
    return found


def settings_of(
    workers: Iterable[int], others: Mapping[str, Sequence[Any]] | None = None
) -> list[Setting]:
    """All combinations of the counts with the values of other fields of :class:`Setting`."""
    others = {name: list(values) for name, values in (others or {}).items() if values}
    found = [
        Setting(count, **dict(zip(others, values, strict=True)))
        for values in itertools.product(*others.values()) for count in sorted(set(workers))
    ]
    # Without workers there is nothing to prefetch, keep, start or reorder: such settings are one.
    plain = [
        s if s.workers else Setting(0, pin_memory=s.pin_memory, batch_size=s.batch_size) for s in found
    ]
    return list(dict.fromkeys(plain))
