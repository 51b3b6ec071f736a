"""How many workers: the answer from simulated visits with known truth, and from what a capture holds."""

from __future__ import annotations

import math
import random

import builders
import pytest
from builders import block

from perfdoc.capture.document import Capture
from perfdoc.capture.records import BenchedLoader
from perfdoc.core.measurement import Measurement
from perfdoc.loader_bench import answer as loader_answer
from perfdoc.loader_bench import compare_rates, demand
from perfdoc.report import loader_table

pytestmark = pytest.mark.any_python
ON_CPU = BenchedLoader("train.py:9", "D", 8, 0, None, [], 2.0, "cpu")

COUNTS = (0, 1, 2, 3, 4, 6, 8, 16)
TRUTHS = {
    "two cores": {n: 50.0 * min(n, 2) * (1 - 0.004 * max(0, n - 2)) if n else 55.0 for n in COUNTS},
    "in memory": {n: 300.0 if n else 1000.0 for n in COUNTS},
    "slow storage": {n: 10.0 * n if n else 9.0 for n in COUNTS},
}


def visited(truth: dict[int, float], rounds: int, sd: float, seed: int) -> dict[int, list[tuple[int, float]]]:
    """Rates with noise, a level that drifts between rounds, and one visit in twenty at half speed."""
    rng = random.Random(seed)
    rates: dict[int, list[tuple[int, float]]] = {n: [] for n in truth}
    for place in range(rounds):
        level = rng.gauss(0, 0.1)
        for count, rate in truth.items():
            stalled = 0.5 if rng.random() < 0.05 else 1.0
            rates[count].append((place, rate * stalled * math.exp(level + rng.gauss(0, sd))))
    return rates


@pytest.mark.parametrize("name", TRUTHS)
def test_the_answer_is_within_three_percent_of_the_best(name):
    """With four rounds of 3% noise the recommended count is nearly always within 5% of the truth, and no larger than needed."""
    truth = TRUTHS[name]
    best = max(truth.values())
    chosen = [compare_rates.recommended(visited(truth, 4, 0.03, seed), lambda n: n) for seed in range(60)]
    assert sum(truth[n] >= 0.95 * best for n in chosen) >= 57
    assert sum(n <= max(k for k, rate in truth.items() if rate >= 0.97 * best) for n in chosen) == 60


def test_counts_that_are_alike_speak_for_each_other():
    """On a plateau of twelve counts a lucky visit makes none the best: the answer lies on it, mostly where it begins."""
    truth = {0: 30.0, 1: 22.0, 2: 40.0} | dict.fromkeys(range(3, 15), 42.5)
    chosen = [compare_rates.recommended(visited(truth, 5, 0.03, seed), lambda n: n) for seed in range(60)]
    assert sum(truth[n] >= 0.97 * 42.5 for n in chosen) >= 57
    assert sum(n == 3 for n in chosen) >= 40
    assert sum(n > 6 for n in chosen) <= 6


def test_a_dip_in_the_curve_is_taken_for_noise():
    """Rates rise to a top and fall from there: one count that looks slow between two fast ones is thought as fast as they."""
    rates = {n: [(0, rate), (1, rate)] for n, rate in {1: 10.0, 2: 20.0, 3: 17.0, 4: 20.0, 6: 15.0}.items()}
    assert compare_rates.fastest(rates, lambda n: n) in (2, 3, 4)
    assert 6 not in compare_rates.unsettled(rates, lambda n: n)


def test_what_is_settled_is_right():
    """Where nothing is open any more, the recommendation is the true one: the smallest count within 3%."""
    truth = TRUTHS["two cores"]
    rates = [visited(truth, 12, 0.02, seed) for seed in range(40)]
    closed = [r for r in rates if not compare_rates.unsettled(r, lambda n: n)]
    assert len(closed) >= 10
    assert sum(compare_rates.recommended(r, lambda n: n) == 2 for r in closed) >= 0.9 * len(closed)


def test_batches_that_differ_much_are_not_called_settled_after_one_visit():
    """Where a visit's rate hangs on which batches it saw, single visits that differ by a quarter settle nothing."""
    rates = {0: [(0, 14.0)], 1: [(0, 9.0)], 2: [(0, 18.0)], 4: [(0, 14.5)]}
    assert not compare_rates.unsettled(rates, lambda n: n)
    usual = compare_rates.usual_spread([0.21, 0.17, 0.19])
    assert usual == pytest.approx(0.2, abs=0.01)
    assert set(compare_rates.unsettled(rates, lambda n: n, usual)) == {0, 2, 4}


def test_a_slow_round_does_not_make_a_setting_slow():
    """A count that was visited only while the machine was slow is compared with the others of that round."""
    rates = {1: [(0, 50.0), (1, 25.0)], 2: [(0, 100.0), (1, 50.0)], 4: [(1, 50.0)]}
    found = compare_rates.effects(rates)
    assert found[4] == pytest.approx(found[2], abs=0.01)
    assert found[1] == pytest.approx(found[2] - math.log(2), abs=0.01)


def answered(demand: float | None = None, failed: dict[str, str] | None = None) -> loader_answer.LoaderAnswer:
    """An answer from measurements: 2 workers nearly as fast as 4."""
    found = []
    for workers, rate in ((0, 10.0), (2, 19.8), (4, 20.0)):
        here = {"workers": workers}
        found += [
            Measurement("loader.rate", "1/s", (rate, rate * 1.01, rate), here),
            Measurement("loader.round", "count", (0.0, 1.0, 2.0), here),
            Measurement("loader.startup", "s", (0.1,), here),
        ]
    found.append(Measurement("loader.batch_samples", "count", (32.0,)))
    if demand:
        found.append(Measurement("loader.demand", "1/s", (demand,)))
    answer = loader_answer.read(found, failed or {})
    assert answer is not None
    return answer


def test_fewer_workers_are_recommended_and_enough_is_told_apart():
    """2 workers are within 3% of 4; a step that takes 8 batches a second is served without any."""
    answer = answered(demand=8.0)
    assert answer.recommended.workers == 2
    assert answer.best.workers == 4
    assert answer.enough.workers == 0
    assert "num_workers=0 is enough" in answer.sentence
    assert "633.6 samples/s" in answer.sentence or "samples/s" in answer.speed(answer.recommended)


def test_what_a_step_takes_beside_its_stand_in_is_told_with_an_interval():
    """The count that the loader has is compared in turns with the others; where it was not measured nothing is told."""
    found = [
        Measurement("loader.rate", "1/s", (80.0, 81.0), {"workers": 2}),
        Measurement("loader.round", "count", (0.0, 1.0), {"workers": 2}),
        Measurement("loader.beside", "s", (0.030, 0.033, 0.027), {"workers": 0}),
        Measurement("loader.beside", "s", (0.020, 0.022, 0.018), {"workers": 2}),
        Measurement("loader.demand", "1/s", (100.0,)),
    ]
    answer = loader_answer.read([*found, Measurement("loader.num_workers", "count", (0.0,))], {})
    ratio, low, high = answer.beside(answer.recommended).speedup
    assert low <= ratio <= high
    assert ratio == pytest.approx(1.5)
    said = " ".join(loader_table.notes(answer, ON_CPU))
    assert "computes 10 ms a batch, as your step does: 30 ms a batch with num_workers=0 as now, 20 ms with" in said
    assert "Not measured" not in said
    other = loader_answer.read([*found, Measurement("loader.num_workers", "count", (1.0,))], {})
    assert other.beside(other.recommended) is None
    assert "stand-in" not in " ".join(loader_table.notes(other, ON_CPU))


def test_workers_that_take_the_steps_cores_are_no_answer_without_a_warning():
    """Faster alone, slower beside the step: the one line says it, and says nothing where the step gains."""
    def answer(with_workers: float) -> loader_answer.LoaderAnswer:
        found = [
            Measurement("loader.rate", "1/s", (80.0, 81.0), {"workers": 2}),
            Measurement("loader.round", "count", (0.0, 1.0), {"workers": 2}),
            Measurement("loader.beside", "s", (0.030, 0.031, 0.029), {"workers": 0}),
            Measurement("loader.beside", "s", tuple(with_workers * s for s in (0.030, 0.0311, 0.0289)), {"workers": 2}),
            Measurement("loader.demand", "1/s", (50.0,)),
            Measurement("loader.num_workers", "count", (0.0,)),
        ]
        return loader_answer.read(found, {})

    assert "num_workers=2 would make it slower: 0.80x" in answer(1.25).sentence
    assert "slower" not in answer(0.8).sentence


def test_batches_of_other_sizes_meet_the_demand_in_samples():
    """100 small batches a second are fewer samples than 50 of the step's own size."""
    found = [
        Measurement("loader.rate", "1/s", (100.0, 100.0), {"workers": 0, "batch_size": 8}),
        Measurement("loader.round", "count", (0.0, 1.0), {"workers": 0, "batch_size": 8}),
        Measurement("loader.batch_samples", "count", (8.0,), {"batch_size": 8}),
        Measurement("loader.demand", "1/s", (50.0,), {"batch_size": 64}),
    ]
    answer = loader_answer.read(found, {})
    assert not answer.meets(answer.rows[0])
    assert answer.enough is None


def test_copies_of_a_stream_are_no_speed():
    """Where every worker delivers the same, the answer says so."""
    found = [
        Measurement("loader.rate", "1/s", (100.0, 100.0), {"workers": 2}),
        Measurement("loader.round", "count", (0.0, 1.0), {"workers": 2}),
        Measurement("iterable.duplicated", "1", (1.0,), {"workers": 2}),
    ]
    assert "counts above 1 deliver copies" in loader_answer.read(found, {}).sentence


def test_a_demand_that_nothing_meets_is_said():
    """No count delivers 50 batches a second: the loader holds the step back with every one."""
    answer = answered(demand=50.0)
    assert answer.enough is None
    assert "no setting delivers that" in answer.sentence


def test_settings_that_failed_stay_in_the_rows():
    """What could not be tried is a row with its reason, not a zero."""
    row = next(r for r in answered(failed={"loader workers=16": "not tried: no room"}).rows if r.workers == 16)
    assert row.rate is None
    assert row.why == "not tried: no room"


def test_nothing_benched_is_no_answer():
    """A capture of an ordinary scan has no loader answer."""
    assert loader_answer.read([Measurement("step.time", "s", (0.1,))], {}) is None


def test_demand_from_a_scan_is_the_step_without_its_wait():
    """From steps of 30 ms that wait 10 ms for data: 50 batches a second; a compute ceiling comes first."""
    capture = Capture(builders.run(), loop=builders.loop())
    capture.measurements = [Measurement("step.time", "s", (0.03,) * 5), Measurement("step.data", "s", (0.01,) * 5)]
    assert demand.demand_of(capture) == pytest.approx(50)
    capture.blocks = [block(0, "compute_ceiling=on", 0.1, 10)]
    capture.offers = [builders.offer("compute_ceiling", ("on", "one cached batch"), role="ceiling")]
    assert demand.demand_of(capture) == pytest.approx(100)


def test_more_workers_than_keep_the_cores_busy_are_not_recommended():
    """2 workers fill 2 cores: 8 that looked faster once, at the same CPU time a batch, cannot be; at less CPU time they can."""
    rates = {0: [(0, 10.0)], 2: [(0, 20.0), (1, 20.0)], 8: [(0, 22.0)]}

    def able(cpu):
        return set(compare_rates.not_outdone(rates, lambda n: n, cpu, 2.0))

    assert able({0: 0.19, 2: 0.0985, 8: 0.0985}) == {0, 2}
    assert able({0: 0.19, 2: 0.0985, 8: 0.08}) == {0, 2, 8}
    assert able({0: 0.19, 2: 0.05, 8: 0.05}) == {0, 2, 8}  # half of the cores are idle: storage is waited for
    assert set(compare_rates.not_outdone(rates, lambda n: n, {}, 2.0)) == {0, 2, 8}


def test_what_looks_faster_by_noise_is_said_to():
    """8 workers had one lucky visit at the same CPU time a batch: 2 are recommended, and the sentence says why."""
    found = [Measurement("loader.cores", "count", (2.0,))]
    for workers, rates, cpu in ((0, (10.0, 10.0), 0.19), (2, (20.0, 20.2), 0.0985), (8, (22.0,), 0.0985)):
        here = {"workers": workers}
        found += [
            Measurement("loader.rate", "1/s", rates, here), Measurement("loader.cpu", "s", (cpu,) * len(rates), here),
            Measurement("loader.round", "count", tuple(float(n) for n in range(len(rates))), here),
        ]
    answer = loader_answer.read(found, {})
    assert answer.recommended.workers == 2
    assert "keeps 2 cores busy" in answer.sentence
