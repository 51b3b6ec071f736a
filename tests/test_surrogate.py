"""Tests of the regression that chooses which stack is measured next."""

import math
import random
import statistics

import pytest

from perfdoc.core.treatment import Level
from perfdoc.inject.experiment.design import Factor
from perfdoc.inject.experiment.surrogate import Surrogate

pytestmark = pytest.mark.any_python


def factor(slug, *levels, **more):
    """A treatment with these levels."""
    return Factor(slug, tuple(Level(name, name) for name in levels), **more)


FACTORS = [factor("a", "on"), factor("b", "1", "2"), factor("c", "on", interacts=("b",))]
NOISE = 0.02**2
COST = math.log(1.02)


def model(seen, noise=NOISE, **more):
    """A surrogate that has seen these arms."""
    return Surrogate(FACTORS, [(dict(arm), values) for arm, values in seen], noise, COST, **more)


def test_singles_that_help_are_stacked_before_the_stack_was_seen():
    """The best stack is the sum of what helped alone, with the better of two levels."""
    seen = [({"a": "on"}, [0.2] * 3), ({"b": "1"}, [0.1] * 3), ({"b": "2"}, [0.15] * 3), ({"c": "on"}, [-0.1] * 3)]
    found = model(seen)
    assert found.best(found.mean) == {"a": "on", "b": "2"}
    assert found.speedup({"a": "on", "b": "2"}, found.mean) == pytest.approx(0.35, abs=0.03)


def test_a_stack_that_was_seen_to_do_less_than_its_parts_is_believed():
    """Blocks of the stack itself overrule what its parts make expect."""
    seen = [({"a": "on"}, [0.26] * 8), ({"b": "1"}, [0.2] * 8), ({"a": "on", "b": "1"}, [0.25] * 8)]
    found = model(seen)
    assert found.best(found.mean) == {"a": "on"}
    assert found.speedup({"a": "on", "b": "1"}, found.mean) == pytest.approx(0.25, abs=0.02)


def test_one_block_of_a_stack_that_stalled_is_not_believed():
    """A single block far off what its well-known parts make expect does not throw the stack out."""
    seen = [({"a": "on"}, [0.26] * 8), ({"b": "1"}, [0.2] * 8), ({"a": "on", "b": "1"}, [-0.8])]
    found = model(seen)
    assert found.best(found.mean) == {"a": "on", "b": "1"}


def test_a_pair_that_only_wins_together_is_found_from_its_cell():
    """Hill climbing takes two interacting changes at once, although each alone hurts."""
    seen = [({"b": "1"}, [-0.1] * 4), ({"c": "on"}, [-0.1] * 4), ({"b": "1", "c": "on"}, [0.3] * 4)]
    found = model(seen)
    assert found.best(found.mean) == {"b": "1", "c": "on"}


def test_what_brings_less_than_its_cost_stays_out():
    """A change of 1% is not worth a line where 2% is the smallest effect of interest."""
    found = model([({"a": "on"}, [0.2] * 8), ({"b": "1"}, [0.01] * 8)])
    assert found.best(found.mean) == {"a": "on"}


@pytest.mark.parametrize(("banned", "best"), [("a=on", {"b": "1"}), ("a=on+b=1", {"a": "on"})])
def test_what_is_banned_is_in_no_stack(banned, best):
    """A part that failed is proposed in no stack; a pair that failed leaves its halves alone."""
    found = model([({"a": "on"}, [0.3] * 4), ({"b": "1"}, [0.2] * 4)], banned=[banned])
    assert found.best(found.mean) == best


def test_draws_scatter_around_the_mean_as_far_as_little_is_known():
    """Draws have the expected mean; what was measured often scatters little, what was never measured much."""
    found = model([({"a": "on"}, [0.2] * 8)], noise=0.1**2)
    rng = random.Random(0)
    draws = [found.draw(rng) for _ in range(400)]
    known = [found.speedup({"a": "on"}, weights) for weights in draws]
    unknown = [found.speedup({"c": "on"}, weights) for weights in draws]
    assert statistics.fmean(known) == pytest.approx(found.speedup({"a": "on"}, found.mean), abs=0.01)
    assert statistics.stdev(known) == pytest.approx(0.1 / math.sqrt(8), rel=0.2)
    assert statistics.stdev(unknown) == pytest.approx(0.2, rel=0.2)


def test_hope_is_the_mean_and_one_standard_deviation_of_the_draws():
    """The closed form that orders the arms agrees with what the draws show."""
    found = model([({"a": "on"}, [0.2] * 2), ({"a": "on", "b": "1"}, [0.25])], noise=0.1**2)
    rng = random.Random(1)
    for arm in ({"a": "on"}, {"b": "1"}, {"a": "on", "b": "2"}):
        drawn = [found.speedup(arm, found.draw(rng)) for _ in range(600)]
        assert found.hope(arm) == pytest.approx(statistics.fmean(drawn) + statistics.stdev(drawn), abs=0.02)


def test_what_a_change_does_beside_others_is_that_of_the_draws():
    """Expected effect and deviation beside a stack agree with the draws; before anything was seen nothing is known of it."""
    found = model([({"a": "on"}, [0.2] * 2), ({"a": "on", "b": "1"}, [0.25] * 3), ({"b": "1", "c": "on"}, [0.3])], noise=0.1**2)
    rng = random.Random(2)
    draws = [found.draw(rng) for _ in range(600)]
    for stack, slug, level in (({"a": "on"}, "b", "1"), ({"a": "on", "b": "1"}, "b", "1"), ({"b": "2"}, "c", "on")):
        rest = {other: at for other, at in stack.items() if other != slug}
        drawn = [found.speedup({**rest, slug: level}, w) - found.speedup(rest, w) for w in draws]
        expected, deviation, before = found.beside(stack, slug, level)
        assert expected == pytest.approx(statistics.fmean(drawn), abs=0.02)
        assert deviation == pytest.approx(statistics.stdev(drawn), rel=0.1)
        assert deviation < before
    assert found.beside({"b": "1"}, "b", "1") == pytest.approx(found.beside({}, "b", "1"))


def test_changes_that_act_on_little_are_expected_to_do_little():
    """A change to 3% of the step is expected to bring a few percent at most, one to all of it much more."""
    factors = [factor("small", "on", share=0.03), factor("large", "on", share=1.0)]
    found = Surrogate(factors, [({"small": "on"}, [0.3]), ({"large": "on"}, [0.3])], 0.1**2, COST)
    assert found.speedup({"small": "on"}, found.mean) < 0.1
    assert found.speedup({"large": "on"}, found.mean) > 0.2
