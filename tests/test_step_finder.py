"""Tests of how the step of a loop is found, on loops written down as what happens in them."""

import pytest

from perfdoc.core.metrics import PHASES
from perfdoc.inject.observe.clock import Partial
from perfdoc.inject.observe.step_finder import Step, StepFinder, merge

pytestmark = pytest.mark.any_python


def partial(fetches=None, forwards=1, backwards=1, seconds=1.0):
    """What happens before one optimizer call; all of its time is backward."""
    phases = tuple(seconds if name == "backward" else 0.0 for name in PHASES)
    return Partial(seconds, phases, dict(fetches or {}), forwards, backwards)


def observe(calls):
    """A finder that has seen ``calls``: pairs of an optimizer's key and what happened before its call."""
    finder = StepFinder()
    for key, seen in calls:
        assert finder.add(key, seen) is None
    return finder


BATCH = {0: 1}
D, G = 1, 2


def gan(cycles, critics=1):
    """A GAN: ``critics`` batches for the critic, each with a step of its own, then a step of the generator."""
    calls = []
    for _ in range(cycles):
        calls += [(D, partial(BATCH, forwards=2, backwards=2))] * critics
        calls.append((G, partial({}, forwards=2, backwards=1)))
    return calls


def test_a_plain_loop():
    """One batch, one forward, one backward, one optimizer call."""
    shape = observe([(1, partial(BATCH))] * 6).settle()
    assert (shape.batches, shape.forwards, shape.backwards, shape.optimizer_calls) == (1, 1, 1, 1)
    assert shape.fetches == BATCH


def test_accumulation():
    """Four batches to one optimizer call are one step."""
    shape = observe([(1, partial({0: 4}, forwards=4, backwards=4))] * 6).settle()
    assert (shape.batches, shape.forwards, shape.backwards, shape.optimizer_calls) == (4, 4, 4, 1)


def test_a_loop_without_a_loader():
    """A loop that makes its batches by hand fetches nothing and still has steps."""
    shape = observe([(1, partial())] * 6).settle()
    assert shape.batches == 0
    assert shape.fetches == {}


def test_two_steps_are_too_few():
    """Below three whole steps the shape is not settled."""
    assert StepFinder().settle() is None
    finder = observe([(1, partial(BATCH))] * 3)
    assert finder.settle() is None
    assert finder.shape is None


@pytest.mark.parametrize("critics", [1, 2, 5])
@pytest.mark.parametrize("cut_off", [0, 1])
def test_a_gan_ends_its_step_with_the_generator(critics, cut_off):
    """With two optimizers a step is the whole cycle, wherever in the cycle the observation ends."""
    calls = gan(6, critics)
    shape = observe(calls[: len(calls) - cut_off]).settle()
    assert shape.anchor == G
    assert shape.optimizer_calls == critics + 1
    assert shape.batches == critics
    assert shape.forwards == 2 * critics + 2


def test_a_gan_whose_generator_steps_first():
    """The optimizer after which the next batch is fetched ends the step, whatever its name."""
    cycle = [(G, partial(BATCH)), (D, partial({}))]
    assert observe(cycle * 6).settle().anchor == D


@pytest.mark.parametrize("alone", [3, 10])
def test_an_optimizer_born_late(alone):
    """A generator that starts after some steps of the critic alone ends the step once it is there."""
    finder = observe([(D, partial(BATCH))] * alone + gan(8))
    shape = finder.settle()
    assert shape.anchor == G
    assert (shape.batches, shape.optimizer_calls) == (1, 2)


def test_an_optimizer_born_after_the_shape_is_settled():
    """A second optimizer that appears later only makes the steps of the first one longer."""
    finder = observe([(D, partial(BATCH))] * 6)
    finder.settle()
    assert finder.add(G, partial({}, seconds=2.0)) is None
    step = finder.add(D, partial(BATCH))
    assert (step.seconds, step.optimizer_calls) == (3.0, 2)


def test_a_rarely_called_optimizer_does_not_end_the_step():
    """An optimizer called once in forty steps belongs to the step it falls into."""
    calls = [(1, partial(BATCH))] * 40
    calls.insert(20, (9, partial({})))
    shape = observe(calls).settle()
    assert (shape.anchor, shape.optimizer_calls) == (1, 1)


def test_incomplete_cycles_are_left_out():
    """The first cycle, which began before anyone looked, and the open last one are no steps."""
    finder = observe([(D, partial(BATCH, seconds=50.0)), *gan(5)[1:], (D, partial(BATCH, seconds=70.0))])
    assert [step.seconds for step in finder.steps()] == [2.0] * 4


def test_what_is_open_when_the_shape_settles_is_not_lost():
    """The part of a cycle seen before settling is in the first step after it."""
    finder = observe([*gan(5), (D, partial(BATCH, seconds=7.0))])
    assert finder.settle().anchor == G
    step = finder.add(G, partial({}, seconds=1.0))
    assert (step.seconds, step.optimizer_calls, step.fetches) == (8.0, 2, BATCH)


def test_steps_come_one_a_cycle():
    """Once settled, every cycle gives exactly one step, at its anchor."""
    finder = observe(gan(5, critics=3))
    finder.settle()
    found = [finder.add(key, seen) for key, seen in gan(4, critics=3)]
    assert [step is not None for step in found] == [False, False, False, True] * 4
    assert {step.optimizer_calls for step in found if step} == {4}


def test_merging_adds_up():
    """A merged step is the sum of its partials in every respect."""
    step = merge([partial({0: 1, 1: 2}, 1, 2, 0.5), partial({0: 3}, 4, 5, 1.5)])
    assert step == Step(2.0, tuple(2.0 if name == "backward" else 0.0 for name in PHASES), {0: 4, 1: 2}, 5, 7, 2)


def settled_plain():
    """The shape of a plain loop."""
    return observe([(1, partial(BATCH))] * 6).settle()


@pytest.mark.parametrize(
    ("fetches", "forwards"),
    [({0: 1, 5: 1}, 1), ({0: 1, 5: 20}, 21), ({0: 30}, 30), ({0: 1}, 12)],
    ids=["another loader", "a validation epoch", "many batches of the same loader", "a burst of forwards"],
)
def test_validation_is_irregular(fetches, forwards):
    """A step that fetches from another loader or calls the model many times more did other work."""
    assert not settled_plain().regular(merge([partial(fetches, forwards)]))


@pytest.mark.parametrize(("fetches", "forwards"), [({0: 1}, 1), ({0: 2}, 2), ({}, 1), ({0: 1}, 3)])
def test_small_differences_are_regular(fetches, forwards):
    """A step that reuses a batch, skips a bad one, or calls the model once more is still a step."""
    assert settled_plain().regular(merge([partial(fetches, forwards)]))


def test_a_validation_among_the_observed_steps_does_not_shape_the_step():
    """One observed step with a validation epoch in it leaves the shape that of the others."""
    calls = [(1, partial(BATCH))] * 8
    calls[4] = (1, partial({0: 1, 3: 25}, forwards=26))
    shape = observe(calls).settle()
    assert (shape.fetches, shape.forwards) == (BATCH, 1)


def test_a_loop_that_goes_on_with_another_optimizer():
    """One layer after the other is trained with an optimizer of its own: its steps are found again after a while."""
    finder = observe([(1, partial(BATCH))] * 6)
    finder.settle()
    assert finder.add(1, partial(BATCH)) is not None
    calls = 0
    while not finder.changed:
        assert finder.add(2, partial(BATCH, forwards=3)) is None
        calls += 1
    assert calls <= 64
    assert (finder.shape.anchor, finder.shape.forwards) == (2, 3)
    assert finder.add(2, partial(BATCH, forwards=3)).forwards == 3


def test_optimizers_that_step_rarely_do_not_end_the_loop():
    """Many calls of a critic before the generator's: the loop stays the one it is."""
    finder = observe(gan(6, critics=5))
    finder.settle()
    for _ in range(20):
        steps = [finder.add(key, seen) for key, seen in gan(1, critics=5)]
        assert steps[-1] is not None
    assert not finder.changed


def test_the_number_of_calls_is_no_mark_where_it_varies():
    """Episodes of any length: a step with many more calls of the model is one like the others once that was found."""
    finder = observe([(1, partial({}, forwards=9))] * 6)
    shape = finder.settle()
    long = partial({}, forwards=500)
    assert not shape.regular(finder.add(1, long))
    finder.relax()
    assert finder.shape.regular(finder.add(1, long))
