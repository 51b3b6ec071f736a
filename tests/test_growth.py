"""What grows over a scan, from made captures whose truth is known: steps that get slower, memory, workers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import builders
import pytest

from perfdoc.capture.document import Capture
from perfdoc.capture.records import CallSites, Moment, TrailCall
from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.core.metrics import PHASES
from perfdoc.diagnosis import growth
from perfdoc.diagnosis.diagnose import diagnose

pytestmark = pytest.mark.any_python

MIB = 2**20
STEP = {"data": 1e-3, "forward": 3e-3, "backward": 4e-3, "optimizer": 2e-3, "other": 5e-4}
"""Seconds a step by phase, at first."""
Times = Callable[[int], float]


def moments(times: dict[str, Times] | None = None, count: int = 60, noise: float = 0.03, work: Times | None = None,
            machine: Times = lambda step: 1.0, **sizes: Times) -> list[Moment]:
    """Blocks of ten steps, 40 steps apart, whose phases take ``times(step)`` as long as at first."""
    rng = random.Random(3)
    made = []
    for i in range(count):
        step = 40 * (i + 1)
        phases = [
            STEP.get(phase, 0.0) * (times or {}).get(phase, lambda step: 1.0)(step) * machine(step) * (1 + rng.gauss(0, noise))
            for phase in PHASES
        ]
        more: dict[str, Any] = {name: int(value(step)) for name, value in sizes.items()}
        made.append(Moment(0, i, step, float(i), 10, phases, work(step) if work else 640.0, **more))
    return made


def capture(found: list[Moment], *measurements: Measurement, batches: int = 1000, **of_loader: Any) -> Capture:
    """A scan with these moments, whose optimizer is made at line 53 and stepped at line 44."""
    places = CallSites(main="/home/me/train.py", packages=[], zero_grad=[], trail=[
        TrailCall("step", [["/home/me/train.py", 44, "run", 40, None]], optimizer="Adam", made=["/home/me/train.py", 53])])
    return Capture(
        run=builders.run(), loop=builders.loop(loaders=[builders.loader(**of_loader)], places=places), moments=found,
        measurements=[Measurement("step.time", "s", (0.01,) * 5), Measurement("loader.batches_an_epoch", "count", (batches,)),
                      *measurements])


def found_in(what: Capture) -> dict[str, Finding]:
    """The findings by code."""
    return {finding.code: finding for finding in diagnose(what).findings}


def denormal(slow: float) -> tuple[Measurement, ...]:
    """What the probe measures where an update takes ``slow`` times as long by denormals."""
    return (
        Measurement("denormals.share", "1", (0.98,), {"state": "exp_avg"}),
        Measurement("denormals.share", "1", (0.0,), {"state": "exp_avg_sq"}),
        Measurement("denormals.update", "s", tuple(slow * (1 + i / 100) * 1e-3 for i in range(9)), {"values": "as they are"}),
        Measurement("denormals.update", "s", tuple((1 + i / 100) * 1e-3 for i in range(9)), {"values": "flushed"}),
    )


# -- steps that get slower


def test_a_phase_that_grows_from_a_step_on_is_named_with_it() -> None:
    """The optimizer takes four times as long after step 300 of 2400: the phase, both figures, and about the step."""
    found = growth.step_growth(capture(moments({"optimizer": lambda step: 4.0 if step > 300 else 1.0})))
    assert found is not None
    assert found.phase == "optimizer"
    assert found.early == pytest.approx(2e-3, rel=0.1)
    assert found.late == pytest.approx(8e-3, rel=0.1)
    assert found.low <= 6e-3 <= found.high
    assert 280 <= found.since <= 400
    assert found.early_share < 0.25
    assert found.late_share > 0.45


def test_growth_with_every_step_is_seen() -> None:
    """What is done over everything so far takes longer step by step; the list that grows with it is named, with its line."""
    lists = [Measurement("lists.grown", "B", (100.0,), {"name": "unread", "site": "train.py:30", "read": ""}),
             Measurement("lists.grown", "B", (28.0, 28.0), {"name": "history", "site": "train.py:31", "read": "train.py:33"})]
    finding = found_in(capture(moments({"other": lambda step: 1 + step / 100}), *lists))["PD807"]
    assert finding.where == "train.py:33"
    assert "history" in finding.title
    assert finding.seconds_saved_a_step > 0


@pytest.mark.parametrize("found", [
    moments(),
    moments(machine=lambda step: 1 + step / 1200),
    moments(machine=lambda step: 2.0 if step > 300 else 1.0),
    moments({"optimizer": lambda step: 1.1 if step > 300 else 1.0}),
    moments({"optimizer": lambda step: 4.0 if step > 2300 else 1.0}),
    moments({"optimizer": lambda step: 4.0 if step < 1000 else 1.0}),
    moments({"forward": lambda step: 4.0 if step > 300 else 1.0, "backward": lambda step: 4.0 if step > 300 else 1.0},
            work=lambda step: 640.0 if step < 300 else 2560.0),
    moments({"optimizer": lambda step: 4.0 if step > 300 else 1.0}, count=8),
    [],
], ids=["nothing", "drift", "throttled", "a little", "a stall at the end", "faster", "more work", "too few", "none"])
def test_what_is_no_growth_at_equal_work_is_not_told(found: list[Moment]) -> None:
    """A machine that slows all phases, noise, a short stall, larger batches, steps that get faster: silence."""
    assert growth.step_growth(capture(found)) is None
    assert "PD807" not in found_in(capture(found))


def test_a_machine_that_wanders_is_rarely_taken_for_growth() -> None:
    """All phases drift together, each a little by itself, with noise and stalls: of 200 scans two at most are told."""
    rng = random.Random(1)
    told = 0
    for _ in range(200):
        all_of_it, own, found = 0.0, [0.0] * len(PHASES), []
        for moment in moments(count=20):
            all_of_it += rng.gauss(0, 0.05)
            own = [0.9 * before + rng.gauss(0, 0.03) for before in own]
            phases = [seconds * math.exp(all_of_it + drift + rng.gauss(0, 0.1)) * (1 + 2 * rng.random() * (rng.random() < 0.1))
                      for seconds, drift in zip(moment.phases, own, strict=True)]
            found.append(replace(moment, phases=phases, position=moment.steps % 600))
        told += growth.step_growth(capture(found)) is not None
    assert told <= 2


def test_what_comes_after_larger_batches_is_left_out() -> None:
    """Blocks with batches four times as large leave the process in another state: what is slower afterwards is not told."""
    found = capture(moments({"optimizer": lambda step: 4.0 if step > 1200 else 1.0}))
    assert growth.step_growth(found) is not None
    found.blocks = [builders.block(30, "batch_size=4", 0.1, 4, work=4.0)]
    assert growth.step_growth(found) is None


def test_steps_with_other_work_before_do_not_hide_growth() -> None:
    """A first pass in batches eight times as large, whose steps were as slow, is left out of the comparison."""
    first = {"optimizer": lambda step: 4.0 if step > 500 or step < 100 else 1.0}
    found = growth.step_growth(capture(moments(first, work=lambda step: 5120.0 if step < 100 else 640.0)))
    assert found is not None
    assert found.early == pytest.approx(2e-3, rel=0.1)


def test_growth_within_each_epoch_is_seen_where_epochs_turn() -> None:
    """A metric over the epoch so far begins anew with each epoch of 600 steps: it grows with the batch, not over the scan."""
    found = [replace(m, position=m.steps % 600) for m in moments({"other": lambda step: 1 + step % 600 / 40})]
    grown = growth.step_growth(capture(found))
    assert grown is not None
    assert grown.in_epoch
    assert grown.phase == "other"
    assert 200 <= grown.since <= 500
    finding = found_in(capture(found, batches=600))["PD807"]
    assert "of the epoch" in finding.title
    assert finding.seconds_saved_a_step == pytest.approx(0.5 * 15 * 5e-4, rel=0.3)
    still = [replace(m, position=m.steps % 600) for m in moments()]
    assert growth.step_growth(capture(still)) is None


# -- denormals


def test_denormals_are_told_with_the_line_of_the_optimizer_and_what_flushing_them_gives() -> None:
    """An update that takes 4 times as long, in steps of which it is about half: at most 1.6x; PD807 does not say it again."""
    slower = moments({"optimizer": lambda step: 4.0 if step > 300 else 1.0})
    said = found_in(capture([replace(m, denormals=0.49 * (m.steps > 300)) for m in slower], *denormal(4.0)))
    finding = said["PD321"]
    assert "from about step 320 on; 0% of all state at step 40, 49% at step 2400" in finding.evidence
    assert finding.where == "train.py:53"
    assert "train.py:44" in " ".join(finding.evidence)
    assert "98% of exp_avg" in finding.title
    assert "set_flush_denormal(True)" in finding.fix
    assert finding.effect is not None
    assert finding.effect.speedup == pytest.approx(16.5 / 10.5, rel=0.05)
    assert finding.effect.how == "measured in isolation"
    assert "PD807" not in said


def test_denormals_that_cost_nothing_are_no_advice() -> None:
    """Where the processor computes with them at full speed it is said that they are there, as no difference."""
    finding = found_in(capture(moments(), *denormal(1.0)))["PD321"]
    assert finding.verdict == "no difference"
    assert finding.seconds_saved_a_step == 0
    assert "PD321" not in found_in(capture(moments()))
    slower = moments({"optimizer": lambda step: 4.0 if step > 300 else 1.0})
    assert "PD807" in found_in(capture(slower, *denormal(1.0))), "what they do not explain is told"


# -- memory


def grown(rate: float) -> Times:
    """``rate`` MiB a step, from 500 MiB."""
    return lambda step: (500 + rate * step) * MIB


def test_memory_that_grows_is_told_with_its_rate_and_the_end() -> None:
    """3 MiB a step: the interval holds it, an epoch of 1000 steps adds 2.9 GiB, 30 GiB are full after 10,240 steps."""
    finding = found_in(capture(moments(memory=grown(3.0), free=lambda step: 30 * 1024 * MIB)))["PD808"]
    assert "3 MiB a step" in finding.title
    assert "an epoch of 1000 steps adds 2.9 GiB" in finding.evidence
    assert any("10,240 more steps" in line for line in finding.evidence)
    assert finding.verdict == "undecided"


def test_memory_that_is_dropped_at_the_turn_of_an_epoch_is_told_by_the_epoch() -> None:
    """3 MiB a step that are given back every 600 steps are growth of 3 MiB a step."""
    found = [replace(m, position=m.steps % 600) for m in moments(memory=lambda step: (500 + 3 * (step % 600)) * MIB)]
    rate = growth.memory_rate(capture(found))
    assert rate is not None
    assert rate.center == pytest.approx(3 * MIB)


def test_a_list_is_blamed_only_where_its_entries_weigh_as_much() -> None:
    """Of two lists that grow, that of tensors explains 3 MiB a step; that of numbers does not."""
    lists = [Measurement("lists.grown", "B", (size,), {"name": name, "site": f"train.py:{line}"})
             for name, size, line in (("losses", 32.0, 30), ("outputs", 3.1 * MIB, 31))]
    finding = found_in(capture(moments(memory=grown(3.0)), *lists))["PD808"]
    assert finding.where == "train.py:31"
    assert "outputs" in finding.title
    assert "losses" not in finding.title + " ".join(finding.evidence)


def test_jumps_and_noise_of_memory_are_no_growth() -> None:
    """Memory that is taken once, that goes up and down, that is dropped at each turn of an epoch, or little of it: silence."""
    for size in (
        lambda step: 500 * MIB if step < 1000 else 5000 * MIB,
        lambda step: (500 + 300 * (step // 40 % 2)) * MIB,
        lambda step: (500 + 0.001 * step) * MIB,
    ):
        assert "PD808" not in found_in(capture(moments(memory=size)))


def test_a_kept_graph_is_told_with_its_holder_and_where_it_is_fed() -> None:
    """The rule of the kept graph speaks, with the rate of the memory, and the one of growing memory is silent."""
    nodes = Measurement("graph.nodes", "count", (100.0, 132.0, 500.0, 532.0))
    holders = [Measurement("graph.holder", "count", (32.0,), {"name": "AverageMeter.sum", "site": "utils.py:14", "fed": fed})
               for fed in ("", "train.py:56")]
    said = found_in(capture(moments(memory=grown(3.0)), nodes, *holders))
    assert said["PD404"].where == "utils.py:14"
    assert said["PD404"].title.startswith("memory grows by 3 MiB a step")
    assert "AverageMeter.sum keeps" in said["PD404"].title
    assert "fed at train.py:56" in said["PD404"].title
    assert "PD808" not in said


def test_a_graph_that_did_not_grow_in_each_step_is_not_kept() -> None:
    """Truncated backpropagation holds the graphs of a few steps, and drops them."""
    nodes = Measurement("graph.nodes", "count", (100.0, 132.0, 132.0, 100.0))
    assert "PD404" not in found_in(capture(moments(), nodes))


# -- workers


def with_workers(found: list[Moment], size: Times) -> list[Moment]:
    """The same with two workers of this size, which have made as many batches as there were steps."""
    return [replace(m, workers=[(pid, int(size(m.steps))) for pid in (11, 12)], batches=m.steps) for m in found]


def test_workers_that_copy_the_data_set_are_told_as_such() -> None:
    """20 KiB a batch at 100 batches a second are 2 MiB/s a worker, towards a copy of the named list; it is no leak."""
    what = {"name": "Captions.annotations", "kind": "a list of 400,000 dicts", "made": "train.py:29", "read": "train.py:36"}
    objects = [Measurement("dataset.objects", "count", (4e6,), what),
               Measurement("dataset.object_memory", "B", (500.0 * MIB,), what)]
    found = with_workers(moments(), lambda step: 20 * MIB + 20 * 1024 * step)
    finding = found_in(capture(found, *objects, num_workers=2, batch_size=64))["PD122"]
    assert finding.where == "train.py:29"
    assert "each of 2 workers grows by 2 MiB/s" in finding.title
    assert "a list of 400,000 dicts" in finding.title
    assert "train.py:36" in " ".join(finding.evidence)
    assert "0.62 KiB a sample" in " ".join(finding.evidence)
    assert "leak" not in finding.title


def test_a_copy_that_is_complete_before_the_scan_ends_is_told_too() -> None:
    """Within the first third of the scan nearly everything was visited: the rate is that of the time in which it grew."""
    found = with_workers(moments(), lambda step: (20 + 170 * (1 - math.exp(-step / 300))) * MIB)
    finding = found_in(capture(found, num_workers=2, batch_size=64))["PD122"]
    assert int(finding.evidence[0].split(" MiB more in each")[0]) > 140
    assert float(finding.title.split("grows by ")[1].split()[0]) > 10


def test_workers_that_stay_as_they_are_are_not_told() -> None:
    """What libraries take at first use is no growth, and other workers in their place are other workers."""
    assert "PD122" not in found_in(capture(with_workers(moments(), lambda step: 20 * MIB), num_workers=2))
    assert "PD122" not in found_in(capture(moments(), num_workers=2))
