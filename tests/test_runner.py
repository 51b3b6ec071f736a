"""The runner in a loop of plain Python: blocks, switches, failures, pauses and probes, without torch and without a clock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import builders
import pytest
from plain_loop import STEP, Change, Ended, PlainLoop, Scripted

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Level, config_id
from perfdoc.inject.experiment.block_timer import BLOCK_SECONDS, MOST_PAUSES, UNLIKE
from perfdoc.inject.experiment.design import Factor
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, ProbeRequest

FAST = {"fast": "on"}


def block(config: dict[str, str], arm: str = "") -> BlockRequest:
    return BlockRequest(config, arm or config_id(config), "screen")


def test_it_imports_no_torch() -> None:
    """What runs an experiment needs only the standard library, so a loop of any kind can be run."""
    code = "import sys, perfdoc.inject.experiment.runner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_whole_experiment_finds_what_is_faster(tmp_path: Path) -> None:
    """Of three changes one halves the step: it is the plan, what slows the step hurts, and in the end nothing is on."""
    changes = [Change("fast", 0.5), Change("slow", 1.3), Change("same")]
    loop = PlainLoop(tmp_path, changes)
    factors = [Factor(change.slug, (Level("on", ""),)) for change in changes]
    experiment = Experiment(factors, 40.0, lambda: 40.0 - loop.now)
    reason = loop.run(experiment)
    (outcome,) = loop.recorder.all("outcome")
    assert outcome["reason"] == reason
    assert outcome["plan"] == FAST
    assert outcome["verdicts"]["fast=on"] == "helps"
    assert outcome["verdicts"]["slow=on"] == "hurts"
    assert outcome["verdicts"]["A/A"] == outcome["verdicts"]["same=on"] == "no difference"
    assert loop.runner.done
    assert not any(change.on for change in changes)
    assert loop.state.times == {}


def test_a_block_is_the_steps_that_count(tmp_path: Path) -> None:
    """Warm-up, switch and steps of another kind are no part of its seconds; its answer is what was written."""
    loop, experiment = PlainLoop(tmp_path, [Change("fast", 0.5)]), Scripted(block({}), block(FAST))
    steps = iter(range(10**6))

    def step() -> None:
        number = next(steps)
        loop.step(regular=number % 25 != 24, seconds=5.0 if number % 25 == 24 else None)

    assert loop.run(experiment, step) == "settled"
    control, fast = loop.recorder.all("block")
    assert control["seconds"] == pytest.approx(control["count"] * STEP)
    assert fast["seconds"] == pytest.approx(fast["count"] * STEP / 2)
    assert control["count"] * STEP >= BLOCK_SECONDS
    assert control["irregular"] + fast["irregular"] > 0
    assert len(control["warmup"]) >= 3
    blocks = [answer.block for answer in experiment.answers if isinstance(answer, BlockResult)]
    assert [found and found.arm for found in blocks] == ["control", "fast=on"]
    assert [event["arm"] for event in loop.recorder.all("switch")] == ["control", "fast=on"]


def test_a_block_of_much_faster_steps_has_more_of_them(tmp_path: Path) -> None:
    """Steps a tenth as long: as much time is counted as for the control, so combinations of it can be told apart."""
    loop, experiment = PlainLoop(tmp_path, [Change("fast", 0.1)]), Scripted(block({}), block(FAST))
    loop.run(experiment)
    control, fast = loop.recorder.all("block")
    assert fast["count"] > 8 * control["count"]
    assert fast["seconds"] >= BLOCK_SECONDS


def test_a_change_that_cannot_be_applied_fails_its_arm(tmp_path: Path) -> None:
    """It is undone, the parent and the experiment hear of it, and the next block runs."""
    broken = Change("broken", fails="apply")
    loop, experiment = PlainLoop(tmp_path, [broken]), Scripted(block({"broken": "on"}), block({}))
    loop.run(experiment)
    first, second = experiment.answers
    assert isinstance(first, BlockResult)
    assert first.failed == "RuntimeError: cannot be applied"
    assert not broken.on
    assert loop.recorder.all("arm_failed")[0]["arm"] == "broken=on"
    assert isinstance(second, BlockResult)
    assert second.block is not None


def test_a_change_that_breaks_a_step_is_taken_back_at_once(tmp_path: Path) -> None:
    """What the step raised is the reason; for want of memory it says so in words that the experiment knows."""
    loop, experiment = PlainLoop(tmp_path, [Change("fast")]), Scripted(block(FAST), block(FAST, "again"))
    errors = iter([ValueError("two lines\nof it"), MemoryError()])

    def step() -> None:
        if loop.runner.config:
            loop.runner.switcher.fail(next(errors))
            assert loop.runner.switcher.active == ()
        loop.step()

    loop.run(experiment, step)
    assert [answer.failed for answer in experiment.answers if isinstance(answer, BlockResult)] == [
        "ValueError: two lines", "does not fit into memory (MemoryError)"]


def test_what_cannot_be_undone_ends_the_experiment(tmp_path: Path) -> None:
    """It would spoil every later block: what was measured before is kept, and the script ends."""
    loop = PlainLoop(tmp_path, [Change("stuck", fails="restore")])
    assert loop.run(Scripted(block({}), block({"stuck": "on"}), block({}))) == "treatment stuck could not be undone"
    assert [event["arm"] for event in loop.recorder.all("block")] == ["control", "stuck=on"]
    assert "cannot be undone" in loop.recorder.all("restore_failed")[0]["error"]
    assert loop.recorder.all("outcome")


def test_a_change_under_which_no_step_is_like_the_loops_own_is_given_up(tmp_path: Path) -> None:
    """Under the user's own settings such steps are waited for instead, and taken for ordinary ones after a while."""
    loop, experiment = PlainLoop(tmp_path, [Change("other")]), Scripted(block({"other": "on"}), block({}))
    loop.run(experiment, lambda: loop.step(regular=not loop.runner.config and loop.relaxed))
    failed, control = experiment.answers
    assert isinstance(failed, BlockResult)
    assert failed.failed == f"none of {UNLIKE} steps was like those of the loop"
    assert loop.relaxed
    assert isinstance(control, BlockResult)
    assert control.block is not None


def test_the_end_of_an_epoch_runs_under_the_users_own_settings(tmp_path: Path) -> None:
    """In the pause nothing is on, afterwards what was on before; the first step after it does not count."""
    fast = Change("fast", 0.5)
    loop, experiment = PlainLoop(tmp_path, [fast]), Scripted(block(FAST))
    pauses = 0

    def step() -> None:
        nonlocal pauses
        loop.step()
        if loop.runner.counting() and not pauses:
            pauses += 1
            loop.runner.pause()
            assert not fast.on
            loop.runner.resume()
            assert fast.on
            loop.step(seconds=7.0)

    loop.run(experiment, step)
    (found,) = loop.recorder.all("block")
    assert pauses == 1
    assert 7.0 not in found["steps"]
    assert [event["arm"] for event in loop.recorder.all("switch")] == ["fast=on", "control", "fast=on"]


def test_a_script_that_pauses_at_every_step_has_blocks_too(tmp_path: Path) -> None:
    """Where a model is saved at every step, no step would count if those after a pause did not."""
    loop, experiment = PlainLoop(tmp_path, [Change("fast", 0.5)]), Scripted(block(FAST))

    def step() -> None:
        loop.runner.pause()
        loop.runner.resume()
        loop.step()

    loop.run(experiment, step, most=200)
    assert loop.recorder.all("block")[0]["count"] > MOST_PAUSES


def test_the_watchdogs_wish_ends_it_at_the_end_of_the_step(tmp_path: Path) -> None:
    """The outcome says why, and what was on is undone."""
    fast = Change("fast", 0.5)
    loop = PlainLoop(tmp_path, [fast])
    loop.runner.begin(Scripted(block(FAST)))  # type: ignore[arg-type]
    loop.step()
    assert loop.runner.arm_id() == "fast=on"
    loop.wishes.wish_end("memory ran short")
    loop.wishes.wish_end("another reason")
    assert fast.on
    with pytest.raises(Ended, match="memory ran short"):
        loop.step()
    assert not fast.on
    assert loop.recorder.all("outcome")[0]["reason"] == "memory ran short"


def test_a_block_begins_again_where_the_steps_turn_out_to_be_others(tmp_path: Path) -> None:
    """Steps from before are no part of it."""
    loop = PlainLoop(tmp_path)
    loop.runner.begin(Scripted(block({})))  # type: ignore[arg-type]
    while not loop.runner.counting():
        loop.step()
    for _ in range(3):
        loop.step(seconds=0.05)
    loop.runner.start_block_again()
    assert not loop.runner.counting()
    loop.train()
    (found,) = loop.recorder.all("block")
    assert set(found["steps"]) == {STEP}


def test_a_loop_that_is_left_is_left_as_it_was(tmp_path: Path) -> None:
    """The caller's own error came through: what is on is undone, and no step is looked at any more."""
    fast = Change("fast", 0.5)
    loop = PlainLoop(tmp_path, [fast])
    loop.runner.begin(Scripted(block(FAST), block({})))  # type: ignore[arg-type]
    loop.step()
    loop.runner.give_up()
    assert not fast.on
    for _ in range(100):
        loop.step()
    assert not loop.recorder.all("block")
    assert not loop.recorder.all("outcome")


def test_steps_that_turn_into_slower_ones_do_not_outlast_the_budget(tmp_path: Path) -> None:
    """A loop whose steps grow a hundredfold while it runs (it adds up more and more batches): the scan ends all the same."""
    loop = PlainLoop(tmp_path)
    experiment = Experiment([], 5.0, lambda: 5.0 - loop.now)

    def step() -> None:
        slower = loop.now > 1.0
        loop.step(regular=not slower, seconds=4.0 if slower else None)

    assert loop.run(experiment, step) == "budget spent"
    assert loop.now < 25.0


class Watching(Probe):
    """Watches a step, under the control and one treatment."""

    slug = "watching"
    provides: ClassVar[dict[str, Any]] = {"host_syncs": "count"}
    under = ("fast",)

    def __init__(self, fails: bool = False) -> None:
        self.steps: list[str] = []
        self._fails = fails

    def prepare(self, loop: Any) -> None:
        self.steps.append("prepare")
        if self._fails:
            raise RuntimeError("nothing to watch")

    def measure(self, loop: Any, plan: Any) -> list[Measurement | Unavailable]:
        self.steps.append(f"measure {config_id(plan)} at {loop.optimizer_calls} {sorted(loop.times)}")
        return [Measurement("host_syncs", "count", (1.0,))]


class Between(Probe):
    """Measures between two steps."""

    slug = "between"
    provides: ClassVar[dict[str, Any]] = {"loader.step": "s"}
    plans: ClassVar[list[Any]] = []

    def measure(self, loop: Any, plan: Any) -> list[Measurement | Unavailable]:
        self.plans.append(plan)
        return [Unavailable("loader.step", "no loader")]


def watched(tmp_path: Path, probe: Watching) -> PlainLoop:
    loop = PlainLoop(tmp_path, [Change("fast", 0.5)], [probe, Between()])
    experiment = Scripted(block({}), block(FAST), ProbeRequest(False, FAST))
    experiment.arm_results.factors = [Factor("fast", (Level("on", ""),))]
    experiment.arm_results.blocks = [builders.block(0, "fast=on", 1.0)]
    loop.run(experiment)
    return loop


def test_probes_watch_a_step_of_every_arm_that_they_ask_for(tmp_path: Path) -> None:
    """A step to settle in, then one from prepare to measure, under the control and under the treatment; nothing stays on."""
    probe = Watching()
    loop = watched(tmp_path, probe)
    prepared, control, again, fast = probe.steps
    assert prepared == again == "prepare"
    assert control.startswith("measure control")
    assert control.endswith("[]")
    assert fast.startswith("measure fast=on")
    assert fast.endswith("['fast']")
    assert [int(said.split(" at ")[1].split()[0]) for said in (control, fast)] == [
        loop.state.optimizer_calls - 2, loop.state.optimizer_calls]
    assert len(loop.recorder.all("measurement")) == 3
    assert Between.plans[-1] == FAST


def test_a_probe_that_raises_is_a_finding_about_the_probe(tmp_path: Path) -> None:
    """The scan goes on; what it would have measured is said to be unavailable, and why."""
    loop = watched(tmp_path, Watching(fails=True))
    said = [event for event in loop.recorder.all("measurement") if "nothing to watch" in str(event)]
    assert len(said) == 2
    assert {event["probe"] for event in loop.recorder.all("probe_failed")} == {"watching"}
    assert loop.recorder.all("outcome")
