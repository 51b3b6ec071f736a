"""Tests of the experiment against a simulated loop whose truth is known."""

import itertools
import math
import random
import sys
from dataclasses import replace

import pytest
from builders import block

from perfdoc.core import stats
from perfdoc.core.treatment import Level, config_from_id, config_id
from perfdoc.inject.experiment.design import Factor, screening_arms
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.policy import Policy
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, ParityRequest, ParityResult, ProbeRequest

pytestmark = pytest.mark.any_python

STEP = 0.05
STEPS = 6
WARMUP = 0.1


def factor(slug, *levels, interacts=(), **more):
    """A treatment with these levels (``on`` when left out)."""
    return Factor(slug, tuple(Level(name, f"{slug}={name}") for name in levels or ("on",)), interacts, **more)


class SimulatedLoop:
    """Answers requests for blocks with the truth, noise and stalls; its clock is what the blocks would have taken.

    ``truth``: log speed-up by parts of an arm that must all be on (``frozenset({"a=on", "b=on"})`` is an interaction).
    """

    def __init__(self, truth, *, seed=0, noise=0.01, stalls=0.01, broken=(), changing=(), lap=0):
        self.truth = truth
        self.broken = broken
        self.changing = changing
        self.lap = lap
        self.spent = 0.0
        self.requests = []
        self._noise = noise
        self._stalls = stalls
        self._rng = random.Random(seed)

    def run(self, factors, budget=60.0, **settings):
        """Carry a whole experiment out."""
        experiment = Experiment(factors, budget, lambda: budget - self.spent, **settings)
        steps = experiment.run()
        answer = None
        while True:
            try:
                request = steps.send(answer)
            except StopIteration:
                return experiment
            answer = self._answer(request)

    def speedup(self, config):
        """The true log speed-up of an arm."""
        parts = set(config_id(config).split("+"))
        return sum(gain for needed, gain in self.truth.items() if set(needed) <= parts)

    def _answer(self, request):
        self.requests.append(request)
        if isinstance(request, ProbeRequest):
            self.spent += 0.1
            return None
        if isinstance(request, ParityRequest):
            self.spent += request.seconds
            return ParityResult([self._numbers(config_id(arm)) for arm in request.arms])
        parts = set(config_id(request.config).split("+"))
        if any(set(needed) <= parts for needed in self.broken):
            self.spent += WARMUP
            return BlockResult(None, "RuntimeError: broken")
        seconds = STEPS * STEP * math.exp(-self.speedup(request.config) + self._rng.gauss(0, self._noise))
        if self._rng.random() < self._stalls:
            seconds += self._rng.uniform(0.1, 0.5)
        self.spent += seconds + WARMUP
        return BlockResult(block(len(self.requests), request.arm, seconds, STEPS, request.phase, lap=self.lap))

    def _numbers(self, arm):
        """A record in which the loss is that of the control, or another one where the arm changes the training."""
        control = [1.0 - 0.01 * step for step in range(10)]
        losses = [1.5 * loss for loss in control] if arm in self.changing else control
        return {"arm": arm, "losses": losses, "control": control, "again": control, "others": [control],
                "gradient_error": 0.0, "gradient_cosine": 1.0, "gradient_noise": 0.0}

    @property
    def arms(self):
        """Config ids of all blocks asked for, in order."""
        return [config_id(request.config) for request in self.requests if isinstance(request, BlockRequest)]


def alone(**gains):
    """Truth of treatments that each act alone, as speed-up ratios."""
    return {(f"{slug}=on",): math.log(gain) for slug, gain in gains.items()}


FACTORS = [factor("a"), factor("b"), factor("c")]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_stack_is_found(seed):
    """Two changes that help are stacked, and what makes no difference stays out."""
    experiment = SimulatedLoop(alone(a=1.3, b=1.2, c=1.0), seed=seed, stalls=0.0).run(FACTORS, seed=seed)
    assert experiment.plan == {"a": "on", "b": "on"}


NUMERIC = [factor("a", numerics=True), factor("b", numerics=True)]


def test_what_changes_the_training_is_never_in_the_plan():
    """The larger gain is left out when it changes the numbers; the smaller one that does not is the plan."""
    loop = SimulatedLoop(alone(a=1.5, b=1.2), changing=("a=on",))
    experiment = loop.run(NUMERIC)
    assert experiment.plan == {"b": "on"}
    assert experiment.arm_results.numerics == {"a=on": "changes training", "b=on": "same numbers"}


def test_who_allows_other_numbers_gets_them():
    """With ``--allow numerics`` what changes the training may be planned."""
    loop = SimulatedLoop(alone(a=1.5, b=1.2), changing=("a=on",))
    assert loop.run(NUMERIC, allow_numerics=True).plan == {"a": "on", "b": "on"}


def test_numbers_are_compared_only_for_what_may_be_advised():
    """What hurts or makes no difference is not worth the steps; a part of an interaction that wins is."""
    truth = {("a=on",): 0.0, ("b=on",): math.log(0.9), ("a=on", "b=on"): math.log(1.4), ("c=on",): math.log(0.8)}
    factors = [factor("a", interacts=("b",), numerics=True), factor("b"), factor("c", numerics=True)]
    experiment = SimulatedLoop(truth).run(factors)
    assert set(experiment.arm_results.numerics) == {"a=on"}
    assert experiment.plan == {"a": "on", "b": "on"}


def test_what_trades_something_else_for_time_is_never_in_the_plan():
    """A treatment that is not planned gets its verdict, and is neither chosen nor stacked."""
    experiment = SimulatedLoop(alone(a=1.5, b=1.2)).run([factor("a", role="trade_off"), factor("b")])
    assert experiment.arm_results.verdicts["a=on"] == "helps"
    assert experiment.plan == {"b": "on"}


@pytest.mark.parametrize("seed", range(4))
def test_what_trades_something_else_for_time_is_tried_where_the_search_needs_all_time(monkeypatch, seed):
    """Steps of 0.2 s and a dozen changes that can be planned: larger batches and the like still have their two blocks,
    and the plan is confirmed."""
    for name, value in {"STEP": 0.2, "STEPS": 4, "WARMUP": 0.3}.items():
        monkeypatch.setattr(sys.modules[__name__], name, value)
    trades = [factor(f"t{i}", role="trade_off", enlarges=i < 2) for i in range(5)]
    loop = SimulatedLoop(alone(a=1.6, x1=1.1, t0=1.5), seed=seed, noise=0.04)
    experiment = loop.run([*many_factors(), *trades], 120.0, seed=seed)
    assert all(len(experiment.arm_results.values(f"{trade.slug}=on")) >= 2 for trade in trades)
    assert experiment.plan["a"] == "on"
    assert len(experiment.arm_results.values(config_id(experiment.plan), confirm=True)) >= 4
    assert loop.spent < 120.0 + 2 * (4 * 0.2 + 0.3) + 0.5  # a block that was begun, the control after it, a stall


def test_what_enlarges_the_process_comes_last():
    """A process keeps what larger batches took: after their first block only they and the control are measured."""
    factors = [factor("a"), factor("big", role="trade_off", enlarges=True), factor("small", role="trade_off")]
    loop = SimulatedLoop(alone(a=1.5, big=1.2))
    experiment = loop.run(factors)
    first = loop.arms.index("big=on")
    assert set(loop.arms[first:]) == {"big=on", "control"}
    assert experiment.arm_results.verdicts["big=on"] == "helps"
    assert experiment.plan == {"a": "on"}


def test_time_that_was_kept_for_the_end_is_not_given_back_while_questions_are_open():
    """Probes and larger batches that need less than was kept for them leave it to what is still open."""
    factors = [factor("close"), factor("big", role="trade_off", enlarges=True)]
    loop = SimulatedLoop(alone(close=1.019, big=2.0), noise=0.03, stalls=0.0)
    experiment = loop.run(factors, 30.0)
    assert "close=on" not in experiment.arm_results.verdicts
    assert loop.spent > 29.5


@pytest.mark.parametrize("seed", range(4))
def test_where_only_larger_batches_are_asked_for_they_have_most_of_the_budget(seed):
    """What else waits for the end is all there is to try: it is decided within about thirty blocks, and the smaller trade with
    twice as many."""
    factors = [
        Factor("big", tuple(Level(name, name) for name in ("x2", "x4")), role="trade_off", enlarges=True),
        factor("small", role="trade_off"), factor("ceiling", role="ceiling"),
    ]
    truth = {("big=x2",): math.log(1.3), ("big=x4",): math.log(1.5), ("small=on",): math.log(0.8)}
    decided = {}
    for budget in (12.0, 30.0):
        verdicts = SimulatedLoop(truth, seed=seed, noise=0.05).run(factors, budget, seed=seed).arm_results.verdicts
        decided[budget] = {name: verdicts.get(name) for name in ("big=x2", "big=x4", "small=on")}
    assert decided[12.0].items() >= {"big=x2": "helps", "big=x4": "helps"}.items()
    assert decided[30.0] == {"big=x2": "helps", "big=x4": "helps", "small=on": "hurts"}


def slow_to_start(slug, seconds):
    """A treatment whose first switch is expected to take this long."""
    return Factor(slug, (Level("on", slug, seconds),))


def test_what_takes_long_to_switch_to_waits_for_the_others():
    """Compilation comes after the quick questions, and is planned when it wins."""
    loop = SimulatedLoop(alone(a=1.2, z=1.5))
    experiment = loop.run([factor("a"), slow_to_start("z", 8.0)], budget=90.0)
    assert loop.arms.index("z=on") > loop.arms.index("a=on")
    assert loop.arms[: loop.arms.index("z=on")].count("a=on") >= 4
    assert experiment.plan["z"] == "on"


def test_what_takes_too_long_to_switch_to_is_not_begun():
    """Where the budget left is less than the switch needs, the arm stays open instead of eating all that is left."""
    loop = SimulatedLoop(alone(a=1.2, z=1.5), noise=0.05)
    loop.run([factor("a"), factor("b"), factor("c"), slow_to_start("z", 30.0)], budget=60.0)
    assert "z=on" not in loop.arms


def test_one_stalled_block_does_not_keep_a_change_out_of_the_plan():
    """A stack that is a fifth faster in all blocks but one, which stalled, is still preferred to its better half."""
    loop = SimulatedLoop(alone(a=1.3, b=1.2), stalls=0.0)
    answer = loop._answer
    stacks = []

    def stalling(request):
        result = answer(request)
        if isinstance(request, BlockRequest) and request.phase == "search" and len(request.config) == 2:
            stacks.append(request)
            if len(stacks) == 2:
                return BlockResult(replace(result.block, seconds=result.block.seconds * 3.0))
        return result

    loop._answer = stalling
    assert loop.run(FACTORS[:2]).plan == {"a": "on", "b": "on"}


@pytest.mark.parametrize("seed", range(3))
def test_an_interaction_of_two_useless_halves_is_found(seed):
    """Two changes that hurt or do nothing alone, but win together, are found because they are tried together."""
    truth = {("a=on",): 0.0, ("b=on",): math.log(0.9), ("a=on", "b=on"): math.log(1.4)}
    factors = [factor("a", interacts=("b",)), factor("b"), factor("c")]
    experiment = SimulatedLoop(truth, seed=seed).run(factors, seed=seed)
    assert experiment.plan == {"a": "on", "b": "on"}


def test_changes_that_only_help_alone_are_not_stacked():
    """Where two changes help each alone but not on top of each other, only the better one is in the plan."""
    truth = {**alone(a=1.3, b=1.25), ("a=on", "b=on"): -math.log(1.25)}
    assert SimulatedLoop(truth).run(FACTORS[:2]).plan == {"a": "on"}


def test_the_best_level_is_chosen():
    """Of several levels of one treatment the fastest is in the plan, and only one of them."""
    truth = {("a=1",): math.log(1.1), ("a=2",): math.log(1.35), ("a=4",): math.log(0.8)}
    assert SimulatedLoop(truth).run([factor("a", "1", "2", "4")]).plan == {"a": "2"}


def test_the_plan_is_confirmed_with_blocks_of_its_own():
    """After the plan is chosen it is measured again, and those values alone are near its true effect."""
    experiment = SimulatedLoop(alone(a=1.3, b=1.2)).run(FACTORS)
    values = experiment.arm_results.values(config_id(experiment.plan), confirm=True)
    assert len(values) >= 6
    assert sorted(values)[len(values) // 2] == pytest.approx(math.log(1.3 * 1.2), abs=0.03)


def confirming(loop):
    """Places of the plan's confirming blocks among all requests."""
    return [n for n, r in enumerate(loop.requests) if isinstance(r, BlockRequest) and r.phase == "confirm" and r.config]


def test_a_plan_that_is_not_known_well_is_measured_until_the_end():
    """In a noisy loop confirming blocks come between those that settle other questions: minutes, not seconds, are judged."""
    noisy = SimulatedLoop(alone(a=1.3, b=1.01), noise=0.08)
    experiment = noisy.run(FACTORS)
    assert experiment.plan
    places = confirming(noisy)
    others = [n for n, r in enumerate(noisy.requests) if isinstance(r, BlockRequest) and r.phase == "settle" and r.config]
    assert 8 < len(places) <= 32
    assert places[0] < others[0] < places[-1]


def test_a_plan_that_is_known_well_costs_little_more():
    """In a quiet loop the plan has its eight pairs and one now and then: most time goes to what is open."""
    quiet = SimulatedLoop(alone(a=1.3, b=1.02), stalls=0.0)
    assert quiet.run(FACTORS).plan
    places = confirming(quiet)
    others = [n for n, r in enumerate(quiet.requests) if isinstance(r, BlockRequest) and r.phase == "settle" and r.config]
    assert 8 < len(places) < 8 + len(others) / 2
    assert places[-1] > others[len(others) * 3 // 4]


def test_a_machine_that_changes_is_met_in_both_states():
    """A change that brings 1.6x until two thirds of the time are over, and 1.2x after that: the plan's interval holds both."""
    loop = SimulatedLoop(alone(a=1.6, b=1.02), stalls=0.0)
    before, loop.speedup = loop.speedup, lambda config: before(config) * (1.0 if loop.spent < 40.0 else 0.4)
    experiment = loop.run(FACTORS)
    shown = stats.interval(experiment.arm_results.values(config_id(experiment.plan), confirm=True))
    assert shown.low < math.log(1.3)
    assert shown.high > math.log(1.5)


@pytest.mark.parametrize("seed", range(3))
def test_a_change_that_was_decided_at_once_goes_on_until_its_size_is_known(seed):
    """In a noisy loop what hurts by far is decided within few pairs, and has more of them; a quiet one needs none."""
    noisy = SimulatedLoop(alone(a=1.3, b=0.6, c=1.01), noise=0.08, seed=seed).run(FACTORS, seed=seed)
    assert noisy.arm_results.verdicts["b=on"] == "hurts"
    assert 9 <= len(noisy.arm_results.values("b=on")) <= 13
    quiet = SimulatedLoop(alone(a=1.3, b=0.6, c=1.01), noise=0.005, stalls=0.0, seed=seed).run(FACTORS, seed=seed)
    assert quiet.arm_results.verdicts["b=on"] == "hurts"
    assert len(quiet.arm_results.values("b=on")) <= 6


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_claimed_where_nothing_helps(seed):
    """In a loop where no change has an effect there is no plan, and no arm helps or hurts, the A/A arm included."""
    experiment = SimulatedLoop({}, seed=seed).run(FACTORS, seed=seed)
    assert experiment.plan == {}
    assert experiment.arm_results.verdicts
    assert set(experiment.arm_results.verdicts.values()) <= {"no difference", "undecided"}


@pytest.mark.parametrize("seed", range(3))
def test_what_hurts_is_never_in_the_plan(seed):
    """A change that slows the step is called hurting and stays out of the plan beside ones that help."""
    experiment = SimulatedLoop(alone(a=1.25, b=0.8, c=1.0), seed=seed).run(FACTORS, seed=seed)
    assert experiment.arm_results.verdicts["b=on"] == "hurts"
    assert "b" not in experiment.plan
    assert experiment.plan == {"a": "on"}


def test_when_everything_hurts_there_is_no_plan():
    """Where every change slows the step, the user's own settings are left alone."""
    assert SimulatedLoop(alone(a=0.7, b=0.8, c=0.9)).run(FACTORS).plan == {}


def test_a_failing_arm_is_dropped_and_the_others_go_on():
    """A treatment that raises is asked for once, takes its joint arms with it, and the rest is judged as ever."""
    loop = SimulatedLoop(alone(a=1.3, b=1.5, c=1.0), broken=[("b=on",)])
    experiment = loop.run([factor("a", interacts=("b",)), factor("b"), factor("c")])
    assert experiment.arm_results.failed["b=on"] == "RuntimeError: broken"
    assert sum("b=on" in arm.split("+") for arm in loop.arms) <= 2
    assert experiment.plan == {"a": "on"}
    assert experiment.arm_results.verdicts["c=on"] == "no difference"


def test_a_failing_joint_arm_leaves_its_halves_alone():
    """Two treatments that only fail together are each tried and judged alone."""
    loop = SimulatedLoop(alone(a=1.3, b=1.2), broken=[("a=on", "b=on")])
    experiment = loop.run([factor("a", interacts=("b",)), factor("b")])
    assert experiment.arm_results.failed == {"a=on+b=on": "RuntimeError: broken"}
    assert experiment.plan == {"a": "on"}
    assert loop.arms.count("a=on+b=on") == 1


def test_a_plan_that_fails_when_confirmed_is_no_plan():
    """A stack that worked at first and breaks the step while it is confirmed is not recommended."""
    loop = SimulatedLoop(alone(a=1.4))
    answer = loop._answer

    def failing(request):
        if isinstance(request, BlockRequest) and request.phase == "confirm" and request.config:
            loop.broken = [("a=on",)]
        return answer(request)

    loop._answer = failing
    experiment = loop.run([factor("a")])
    assert "a=on" in experiment.arm_results.failed
    assert experiment.plan == {}


@pytest.mark.parametrize("budget", [3.0, 10.0, 40.0])
def test_the_budget_is_respected(budget):
    """Whatever the budget, the experiment ends within a few blocks of it."""
    loop = SimulatedLoop({}, noise=0.05, stalls=0.0)
    loop.run([factor(name) for name in "abcdefgh"], budget)
    longest = STEPS * STEP * 1.3 + WARMUP
    assert loop.spent <= budget + 2 * longest


def test_an_experiment_that_is_settled_gives_time_back():
    """When every question is settled the rest of the budget is not used up."""
    loop = SimulatedLoop(alone(a=1.5), noise=0.002, stalls=0.0)
    loop.run([factor("a")], 600.0)
    assert loop.spent < 120.0


def test_what_stacks_say_about_their_parts_holds_the_truth(monkeypatch):
    """A dozen changes in a budget for some: the estimates' intervals hold nine tenths of the true effects beside the plan,
    also of changes that never had a block of their own."""
    monkeypatch.setattr(sys.modules[__name__], "STEP", 0.2)
    rng, held, never_alone = random.Random(3), [], 0
    for seed in range(12):
        gains = [rng.choice((1.0, 1.0, rng.uniform(0.9, 1.4))) for _ in range(12)]
        factors = [factor(f"x{i:02}", share=0.4) for i in range(12)]
        loop = SimulatedLoop(alone(**{f.slug: gain for f, gain in zip(factors, gains, strict=True)}), seed=seed, noise=0.03)
        experiment = loop.run(factors, 100.0, seed=seed)
        for name, found in experiment.combinations.estimates(experiment.plan).items():
            truth = loop.speedup({name.split("=")[0]: "on"})
            held.append(abs(found.center - truth) <= 1.96 * found.deviation)
            never_alone += not experiment.arm_results.values(name)
            assert found.blocks >= 1
    assert len(held) > 60
    assert never_alone > 20
    assert sum(held) >= 0.9 * len(held)


def test_what_failed_or_explains_or_may_not_be_planned_has_no_estimate():
    """Estimates are given of what a plan may consist of; nothing is said before anything ran."""
    factors = [factor("a"), factor("b"), factor("ceiling", role="ceiling"), factor("trade", role="trade_off")]
    loop = SimulatedLoop(alone(a=1.3), broken=[("b=on",)])
    experiment = loop.run(factors, 60.0)
    assert set(experiment.combinations.estimates(experiment.plan)) == {"a=on"}
    assert Experiment(factors, 60.0, lambda: 60.0).combinations.estimates({}) == {}


@pytest.fixture
def slow_steps(monkeypatch):
    """Steps of 2.7 s: a block of two and one of warm-up is 8 s, and thirteen of them fit into two minutes."""
    module = sys.modules[__name__]
    for name, value in {"STEP": 2.7, "STEPS": 2, "WARMUP": 2.7}.items():
        monkeypatch.setattr(module, name, value)


def many_factors():
    """What a loop that only computes is offered: one change of all of the step, and a dozen of less."""
    return [factor(f"x{i}", share=0.3) for i in range(12)] + [factor("a", share=1.0)]


@pytest.mark.parametrize("seed", range(8))
def test_where_steps_are_slow_the_largest_question_is_answered(slow_steps, seed):
    """Thirteen blocks decide on the change that acts on most of the step, beside an A/A arm that lets it be believed."""
    loop = SimulatedLoop(alone(a=1.6), seed=seed, noise=0.05, stalls=0.0)
    experiment = loop.run(many_factors(), 112.0, seed=seed)
    assert experiment.arm_results.verdicts["a=on"] == "helps"
    assert len(experiment.arm_results.values("A/A")) >= 4
    assert experiment.plan == {"a": "on"}
    assert loop.spent < 112.0 + 2 * 8.2


@pytest.mark.parametrize("seed", range(8))
def test_where_steps_are_slow_nothing_is_made_up(slow_steps, seed):
    """Where nothing helps, few blocks claim nothing."""
    experiment = SimulatedLoop({}, seed=seed, noise=0.08, stalls=0.0).run(many_factors(), 112.0, seed=seed)
    assert experiment.plan == {}
    assert not {"helps", "hurts"} & set(experiment.arm_results.verdicts.values())


def test_where_steps_are_slow_the_plan_is_confirmed_if_there_is_time(slow_steps):
    """With half as much time again the change that helps has blocks of its own phase too."""
    loop = SimulatedLoop(alone(a=1.6), noise=0.05, stalls=0.0)
    experiment = loop.run(many_factors(), 190.0)
    assert experiment.plan == {"a": "on"}
    assert len(experiment.arm_results.values("a=on", confirm=True)) >= 4


def test_where_steps_are_slow_one_level_a_treatment_is_tried(slow_steps):
    """Several changes are tried where there is time: of different treatments, those that act on most of the step first."""
    factors = [factor("few", share=0.1), factor("most", "one", "two", share=0.9), factor("half", share=0.5)]
    loop = SimulatedLoop({}, noise=0.05, stalls=0.0)
    loop.run(factors, 260.0)
    tried = {arm for arm in loop.arms if arm != "control"}
    assert {"most=two", "half=on"} <= tried
    assert "most=one" not in loop.arms[:20]


def test_no_time_at_all_is_no_crash():
    """A budget that was spent before the first block leaves an experiment without a plan."""
    experiment = SimulatedLoop(alone(a=1.5)).run(FACTORS, 0.0)
    assert experiment.plan == {}
    assert experiment.arm_results.verdicts == {}


def test_every_arm_has_a_control_on_both_sides():
    """At most two arms run between two control blocks, the first and the last block are controls."""
    loop = SimulatedLoop(alone(a=1.3, b=1.1))
    loop.run(FACTORS, 30.0)
    kinds = [request.arm == "control" for request in loop.requests if isinstance(request, BlockRequest)]
    assert kinds[0]
    assert kinds[-1]
    assert "000" not in "".join("1" if control else "0" for control in kinds)


def test_a_quiet_control_is_no_different_from_itself():
    """Without stalls the A/A arm is settled, as no difference."""
    assert SimulatedLoop({}, stalls=0.0).run(FACTORS).arm_results.verdicts["A/A"] == "no difference"


def test_the_order_of_blocks_follows_the_seed():
    """The same seed gives the same blocks, another seed gives others."""
    orders = []
    for seed in (1, 1, 2):
        loop = SimulatedLoop({}, noise=0.0, stalls=0.0)
        loop.run(FACTORS, 20.0, seed=seed)
        orders.append(loop.arms)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_blocks_of_earlier_laps_are_used():
    """What a first launch measured counts in the second one, which then needs less time for the same verdicts."""
    first = SimulatedLoop(alone(a=1.3, b=0.9))
    before = first.run(FACTORS, 2.5)
    assert not before.plan
    second = SimulatedLoop(alone(a=1.3, b=0.9), seed=9, lap=1)
    after = second.run(FACTORS, 30.0, history=before.arm_results.blocks)
    assert len(after.arm_results.values("b=on")) > len(before.arm_results.values("b=on")) > 0
    assert after.plan == {"a": "on"}
    assert after.arm_results.verdicts["b=on"] == "hurts"


def test_a_confirmed_plan_needs_no_more_confirmation_in_the_next_lap():
    """Blocks of the confirm phase of an earlier lap count towards the number that is wanted: one now and then is enough."""
    first = SimulatedLoop(alone(a=1.3))
    before = first.run([factor("a")])
    second = SimulatedLoop(alone(a=1.3), seed=5, lap=1)
    second.run([factor("a")], history=before.arm_results.blocks)
    assert confirming(first)[7] - confirming(first)[0] == 14  # eight in a row, but for the control between them
    places = confirming(second)
    assert all(later - earlier > 2 for earlier, later in itertools.pairwise(places))


@pytest.mark.parametrize("excluded", ["b=on", "a=on+b=on"])
def test_what_broke_an_earlier_lap_is_never_asked_for_again(excluded):
    """An arm that ended the user's script in an earlier launch is not tried again, neither alone nor in a stack."""
    loop = SimulatedLoop(alone(a=1.3, b=1.2, c=1.1))
    experiment = loop.run(FACTORS, 120.0, excluded=[excluded])
    assert experiment.plan
    assert not [arm for arm in loop.arms if set(excluded.split("+")) <= set(arm.split("+"))]


def test_a_ceiling_is_measured_but_never_advised():
    """The arm without a loader is the fastest of all and still no part of the plan."""
    loop = SimulatedLoop({**alone(a=1.2), ("ceiling=on",): math.log(3.0)})
    experiment = loop.run([factor("ceiling", role="ceiling"), factor("a")])
    assert experiment.arm_results.verdicts["ceiling=on"] == "measured"
    assert experiment.plan == {"a": "on"}
    assert not [arm for arm in loop.arms if "ceiling=on" in arm.split("+") and arm != "ceiling=on"]


def test_a_control_that_differs_from_itself_stops_everything():
    """Where the A/A arm shows an effect, something is wrong with the measuring: no plan is made."""
    loop = SimulatedLoop(alone(a=1.3))
    answer = loop._answer

    def biased(request):
        result = answer(request)
        if isinstance(request, BlockRequest) and request.arm == "A/A":
            return BlockResult(replace(result.block, seconds=result.block.seconds * 0.7))
        return result

    loop._answer = biased
    experiment = loop.run(FACTORS)
    assert experiment.arm_results.verdicts["A/A"] == "helps"
    assert experiment.plan == {}


def test_probes_measure_in_every_round_and_once_for_the_plan():
    """Probes of both kinds are asked for, those of the second kind once and with the plan."""
    loop = SimulatedLoop(alone(a=1.3))
    experiment = loop.run(FACTORS)
    asked = [request for request in loop.requests if isinstance(request, ProbeRequest)]
    assert len([request for request in asked if request.each_round]) >= 4
    assert [request.plan for request in asked if not request.each_round and not request.late] == [experiment.plan]


def test_steps_under_what_is_tried_last_are_watched_after_it_was_tried():
    """Checkpointing's and larger batches' memory is known, though the probes have measured before either had a block."""
    factors = [factor("a"), factor("big", role="trade_off", enlarges=True), factor("small", role="trade_off")]
    loop = SimulatedLoop(alone(a=1.5, big=1.2))
    loop.run(factors)
    whole, *late = (place for place, request in enumerate(loop.requests)
                    if isinstance(request, ProbeRequest) and not request.each_round)
    assert [loop.requests[place].late for place in (whole, *late)] == [False, True, True]
    big = [place for place, request in enumerate(loop.requests) if getattr(request, "arm", None) == "big=on"]
    assert whole < late[0] < big[0] < late[1] < big[1]


def test_screening_tries_levels_alone_and_interacting_pairs():
    """The screening arms are every level alone and the cells of treatments that name each other, nothing else."""
    factors = [factor("a", "1", "2", interacts=("b",)), factor("b", "x"), factor("c"), factor("top", role="ceiling")]
    names = [config_id(arm) for arm in screening_arms(factors)]
    assert sorted(names) == ["a=1", "a=1+b=x", "a=2", "a=2+b=x", "b=x", "c=on", "top=on"]
    assert [config_id(config_from_id(name)) for name in names] == names


def test_screening_leaves_out_what_contains_an_excluded_arm():
    """An excluded level takes its joint arms with it, an excluded pair only itself."""
    factors = [factor("a", "1", "2", interacts=("b",)), factor("b", "x")]
    assert [config_id(arm) for arm in screening_arms(factors, ["b=x"])] == ["a=1", "a=2"]
    assert "a=1+b=x" not in [config_id(arm) for arm in screening_arms(factors, ["a=1+b=x"])]
    assert "a=2+b=x" in [config_id(arm) for arm in screening_arms(factors, ["a=1+b=x"])]


@pytest.mark.parametrize(("arms_a_control", "neighbours"), [(1, False), (2, True)])
def test_a_policy_is_the_experiments_own(arms_a_control, neighbours):
    """With a control block after every arm no two arms are neighbours, as they are by default."""
    loop = SimulatedLoop({("a=on",): 0.5})
    loop.run([factor("a"), factor("b")], policy=Policy(arms_a_control=arms_a_control))
    arms = [request.arm for request in loop.requests if isinstance(request, BlockRequest)]
    assert any("control" not in pair for pair in itertools.pairwise(arms)) == neighbours


# -- a plan in which every part earns its place


@pytest.mark.parametrize("seed", range(4))
def test_a_part_that_only_helps_alone_is_no_passenger(seed):
    """Two changes that each bring 10% alone and 10% together: one of them is the plan, not both."""
    truth = {frozenset({"a=on"}): 0.1, frozenset({"b=on"}): 0.1, frozenset({"a=on", "b=on"}): -0.1,
             frozenset({"c=on"}): 0.2}
    factors = [factor("a"), factor("b"), factor("c")]
    experiment = SimulatedLoop(truth, seed=seed, noise=0.02).run(factors, budget=120.0, seed=seed)
    assert experiment.plan.get("c") == "on"
    assert ("a" in experiment.plan) != ("b" in experiment.plan)


@pytest.mark.parametrize("seed", range(4))
def test_what_earns_its_place_stays(seed):
    """Three changes that bring 5% or more beside each other are all in the plan."""
    loop = SimulatedLoop(alone(a=1.06, b=1.08, c=1.2), seed=seed, noise=0.02)
    assert set(loop.run([factor("a"), factor("b"), factor("c")], budget=120.0, seed=seed).plan) == {"a", "b", "c"}


def test_beside_a_change_of_many_times_there_are_hardly_any_passengers():
    """One change makes a step eight times faster, ten others do nothing, in noise: hardly any of them stays in the plan."""
    factors = [factor("big"), *(factor(name) for name in "abcdefghij")]
    plans = [SimulatedLoop(alone(big=8.0), seed=seed, noise=0.06).run(factors, seed=seed).plan for seed in range(8)]
    assert all(plan.get("big") == "on" for plan in plans)
    assert sum(len(plan) - 1 for plan in plans) <= 4


def test_what_contradicts_is_never_tried_together():
    """Prefetching without workers has no meaning: no block has both, though each helps alone."""
    factors = [factor("workers", "0", "2", interacts=("prefetch",)), factor("prefetch", "8", contradicts=("workers=0",))]
    loop = SimulatedLoop({frozenset({"workers=0"}): 0.2, frozenset({"prefetch=8"}): 0.2})
    experiment = loop.run(factors, budget=60.0)
    arms = [request.arm for request in loop.requests if isinstance(request, BlockRequest)]
    assert any("workers=0" in arm for arm in arms)
    assert any("prefetch=8" in arm for arm in arms)
    assert not any("workers=0" in arm and "prefetch=8" in arm for arm in arms)
    assert len(experiment.plan) == 1
