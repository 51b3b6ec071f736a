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
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from time import perf_counter, process_time
from typing import Any

from torch.utils.data import IterableDataset

from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable, Unit
from perfdoc.inject.feed import twin
from perfdoc.inject.samples.sample_watch import Unchanged
from perfdoc.inject.system import process_use
from perfdoc.inject.system.batches import tensors_in
from perfdoc.inject.system.cores import available_cores
from perfdoc.inject.system.random_state import RandomState
from perfdoc.loader_bench import compare_rates
from perfdoc.loader_bench.iterate import TIMED_OUT, Endless, in_words, samples_in, turns_of, twin_of
from perfdoc.loader_bench.setting import Setting
from perfdoc.loader_bench.synthetic_load import StandIn
from perfdoc.loader_bench.visits import Tell, Visits, no_room, too_slow

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
                iterator = Endless(twin_of(self.loader, setting, self._patience, twin.Endless))
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
        prefetch = setting.prefetch or self.loader.prefetch_factor or 2
        why = no_room(setting, self.visits, prefetch, self._batch_bytes, self._tensors) or too_slow(
            setting, self.visits, window, self.budget, self._end - perf_counter())
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
                iterator = Endless(twin_of(self.loader, setting, self._patience, twin.Endless))
                self._told_start(found, iterator)
                self._steady(found, iterator, window)
        except Exception as error:  # the user's data set, in this process or in a worker: the other settings go on
            found.failed = in_words(error, self._patience)
            self._hangs = self._hangs or ((setting.context,) if TIMED_OUT in str(error) else ())
            self._not_tried(setting, found.failed)
        finally:
            if iterator is not None:
                with suppress(Exception):  # workers that died cannot be ended once more
                    iterator.close()
            found.seconds.append(perf_counter() - began)

    def _told_start(self, found: Visits, iterator: Endless) -> None:
        start = perf_counter()
        batch = iterator.next()
        found.starts.append(perf_counter() - start)
        self._say("loader.startup", "s", found.starts[-1], found)
        if found.setting.batch_size not in self._told_size:
            self._told_size.add(found.setting.batch_size)
            tensors = tensors_in(batch)
            self._batch_bytes = max(self._batch_bytes, sum(t.numel() * t.element_size() for t in tensors))
            self._tensors = max(self._tensors, len(tensors))
            size = samples_in(batch, iterator.twin)
            if size:
                known = {} if found.setting.batch_size is None else {"batch_size": found.setting.batch_size}
                self._tell(Measurement("loader.batch_samples", "count", (float(size),), known, "measured in isolation"))
        for _ in range(found.setting.workers):  # the first burst was made while the others were starting
            iterator.next()

    def _steady(self, found: Visits, iterator: Endless, window: float) -> None:
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
                clone = twin_of(self.loader, chosen, self._patience, partial(twin.Short, count=items), persistent)
                kind = {"kind": "persistent" if persistent else "respawned"}
                for seconds in turns_of(clone, batches, TURNS):
                    self._tell(Measurement(
                        "loader.epoch_turn", "s", (seconds,), {**chosen.conditions, **kind}, "measured in isolation"))
        except Exception as error:  # a sampler that cannot be cut short: the answer does not rest on this
            self._tell(Unavailable("loader.epoch_turn", f"{type(error).__name__}: {error}"))

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
                    why = in_words(error, self._patience)
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
            iterator = Endless(twin_of(self.loader, setting, self._patience, twin.Endless))
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


