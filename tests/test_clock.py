"""Tests of the step clock on a time of our own, so that every phase is known exactly."""

import random
import threading

import pytest

from perfdoc.core.metrics import PHASES
from perfdoc.inject.observe import clock as clock_module
from perfdoc.inject.observe.clock import (
    BACKWARD,
    DATA,
    FETCHED,
    FORWARD,
    LONGEST_KEPT,
    LOSS,
    MOST_KEPT,
    OPTIMIZER,
    OTHER,
    TRANSFER,
    Clock,
)

pytestmark = pytest.mark.any_python


class Ticking:
    """A clock under test and the seconds that pass in it."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(clock_module, "perf_counter", lambda: self.now)
        self.clock = Clock()

    def spend(self, phase, seconds):
        """Enter ``phase``, stay in it, and leave it."""
        self.clock.push(phase)
        self.now += seconds
        self.clock.pop()

    def cut(self):
        """End the partial, and work it out."""
        self.clock.cut(0)
        [(_, partial)] = self.clock.partials()
        return partial

    def step(self):
        """The phases since the last cut, by name, zeros left out."""
        partial = self.cut()
        return self.by_name(partial)

    @staticmethod
    def by_name(partial):
        """The phases of a partial by name, zeros left out."""
        assert partial.seconds == pytest.approx(sum(partial.phases))
        return {name: pytest.approx(value) for name, value in zip(PHASES, partial.phases, strict=True) if value}


@pytest.fixture
def ticking(monkeypatch):
    """A fresh clock that stands still until told otherwise."""
    return Ticking(monkeypatch)


def test_an_ordinary_step(ticking):
    """Each phase has its own time; what lies between forward and backward is the loss, the rest is other."""
    ticking.spend(DATA, 1.0)
    ticking.now += 0.5
    ticking.spend(FORWARD, 2.0)
    ticking.now += 0.25
    ticking.spend(BACKWARD, 4.0)
    ticking.now += 0.125
    ticking.spend(OPTIMIZER, 3.0)
    assert ticking.step() == {
        "data": 1.0, "forward": 2.0, "loss": 0.25, "backward": 4.0, "optimizer": 3.0, "other": 0.625
    }


def test_a_loss_module_counts_as_loss(ticking):
    """A criterion that is a module is loss, together with the arithmetic around it."""
    ticking.spend(FORWARD, 1.0)
    ticking.now += 0.1
    ticking.spend(LOSS, 0.2)
    ticking.now += 0.3
    ticking.spend(BACKWARD, 1.0)
    assert ticking.step() == {"forward": 1.0, "loss": 0.6, "backward": 1.0}


def test_the_gap_after_a_forward_without_backward_is_no_loss(ticking):
    """After an evaluating forward pass the time until the next batch is other work."""
    ticking.spend(FORWARD, 1.0)
    ticking.now += 2.0
    ticking.spend(DATA, 0.5)
    ticking.now += 1.0
    ticking.spend(BACKWARD, 1.0)
    assert ticking.step() == {"data": 0.5, "forward": 1.0, "backward": 1.0, "other": 3.0}


def test_the_gap_does_not_reach_into_the_next_step(ticking):
    """A step that ends after a forward pass leaves nothing to the loss of the following one."""
    ticking.spend(FORWARD, 1.0)
    ticking.now += 2.0
    assert ticking.step() == {"forward": 1.0, "other": 2.0}
    ticking.now += 0.5
    ticking.spend(BACKWARD, 1.0)
    assert ticking.step() == {"backward": 1.0, "other": 0.5}


def test_an_inner_phase_stops_the_outer_one(ticking):
    """Time in an inner phase is not counted in the phase around it."""
    ticking.clock.push(FORWARD)
    ticking.now += 1.0
    ticking.spend(TRANSFER, 5.0)
    ticking.now += 1.0
    ticking.clock.pop()
    assert ticking.step() == {"forward": 2.0, "transfer": 5.0}


def test_a_closure_inside_the_optimizer(ticking):
    """What a closure called by LBFGS computes is forward, loss and backward, each time; the rest is the optimizer."""
    ticking.clock.push(OPTIMIZER)
    for _ in range(3):
        ticking.now += 1.0
        ticking.spend(FORWARD, 2.0)
        ticking.now += 0.25
        ticking.spend(BACKWARD, 4.0)
    ticking.now += 0.5
    ticking.clock.pop()
    partial = ticking.cut()
    assert (partial.forwards, partial.backwards) == (3, 3)
    assert ticking.by_name(partial) == {"forward": 6.0, "loss": 0.75, "backward": 12.0, "optimizer": 3.5}


def test_forward_and_backward_of_a_closure_are_no_optimizer_time(ticking):
    """Whatever else happens inside the optimizer's call, the closure's forward and backward are not part of it."""
    ticking.clock.push(OPTIMIZER)
    ticking.spend(FORWARD, 2.0)
    ticking.spend(BACKWARD, 4.0)
    ticking.now += 0.5
    ticking.clock.pop()
    assert ticking.step() == {"forward": 2.0, "backward": 4.0, "optimizer": 0.5}


def test_a_forward_recomputed_in_backward_starts_no_loss(ticking):
    """With activation checkpointing the forward inside backward is forward time, no other call, and what follows is no loss."""
    ticking.spend(FORWARD, 1.0)
    ticking.clock.push(BACKWARD)
    ticking.now += 2.0
    ticking.spend(FORWARD, 1.0)
    ticking.now += 2.0
    ticking.clock.pop()
    ticking.now += 0.5
    ticking.spend(OPTIMIZER, 1.0)
    partial = ticking.cut()
    assert partial.forwards == 1
    assert ticking.by_name(partial) == {"forward": 2.0, "backward": 4.0, "optimizer": 1.0, "other": 0.5}


def test_a_cut_counts_and_starts_anew(ticking):
    """A partial knows its fetches, forwards and backwards, and the next one starts with none."""
    for _ in range(2):
        ticking.clock.push(DATA)
        ticking.clock.mark((FETCHED - 7, ticking.now))
    ticking.spend(FORWARD, 1.0)
    ticking.spend(BACKWARD, 1.0)
    first, second = ticking.cut(), ticking.cut()
    assert (first.fetches, first.forwards, first.backwards, first.seconds) == ({7: 2}, 1, 1, 2.0)
    assert (second.fetches, second.forwards, second.backwards, second.seconds) == ({}, 0, 0, 0.0)


def test_a_cut_inside_a_phase_splits_it(ticking):
    """A phase that spans a cut has its time on both sides of it."""
    ticking.clock.push(DATA)
    ticking.now += 1.0
    assert ticking.step() == {"data": 1.0}
    ticking.now += 2.0
    ticking.clock.pop()
    assert ticking.step() == {"data": 2.0}


def test_restart_forgets(ticking):
    """After a restart nothing of what was before is in the next partial."""
    ticking.spend(FORWARD, 3.0)
    ticking.clock.push(DATA)
    ticking.clock.mark((FETCHED - 1, ticking.now))
    ticking.clock.cut(0)
    ticking.clock.restart()
    ticking.now += 1.0
    partial = ticking.cut()
    assert (partial.seconds, partial.fetches) == (1.0, {})


def test_partials_that_wait_are_worked_out_as_if_at_once(ticking):
    """Steps whose marks are worked out together are the same as steps worked out one by one, each with its optimizer."""
    def run(each):
        found = []
        for key in range(20):
            ticking.spend(DATA, 0.25)
            ticking.spend(FORWARD, 1.0)
            ticking.now += 0.5
            ticking.spend(BACKWARD, 2.0)
            ticking.clock.cut(key)
            found += ticking.clock.partials() if each else []
        return found + ticking.clock.partials()

    together, one_by_one = run(each=False), run(each=True)
    assert [key for key, _ in together] == list(range(20))
    assert together == one_by_one


def test_marks_wait_only_so_long(ticking):
    """Marks are due after a tenth of a second, and never more wait than fit the processor's cache."""
    ticking.clock.cut(0)
    assert not ticking.clock.due()
    ticking.now += LONGEST_KEPT + 0.01
    ticking.clock.cut(0)
    assert ticking.clock.due()
    assert len(ticking.clock.partials()) == 2
    for _ in range(MOST_KEPT):
        ticking.spend(FORWARD, 0.0)
    ticking.clock.cut(0)
    assert ticking.clock.due()
    [(_, partial)] = ticking.clock.partials()
    assert partial.forwards == MOST_KEPT


def test_marks_without_an_optimizer_do_not_pile_up(ticking):
    """Marks of a script that only evaluates can be worked out on the way; nothing of the time is lost."""
    for _ in range(10 * MOST_KEPT):
        ticking.spend(FORWARD, 0.5)
        if ticking.clock.crowded():
            ticking.clock.work_out()
            assert not ticking.clock.crowded()
    partial = ticking.cut()
    assert (partial.seconds, partial.forwards) == (5.0 * MOST_KEPT, 10 * MOST_KEPT)


@pytest.mark.parametrize("seed", range(5))
def test_no_time_is_lost_or_counted_twice(ticking, seed):
    """Whatever the order and nesting of phases, they add up to the duration of the partial."""
    rng = random.Random(seed)
    depth = 0
    for _ in range(300):
        ticking.now += rng.choice((0.0, 0.25, 1.0))
        action = rng.random()
        if action < 0.45:
            ticking.clock.push(rng.choice((DATA, TRANSFER, FORWARD, LOSS, BACKWARD, OPTIMIZER, OTHER)))
            depth += 1
        elif action < 0.9 and depth:
            ticking.clock.pop()
            depth -= 1
        else:
            ticking.step()


def test_only_the_training_thread_is_its_own():
    """Another thread can tell that it is not the one that is watched, and can be made it."""
    clock = Clock()
    heard = []
    thread = threading.Thread(target=lambda: heard.append(clock.mine()))
    thread.start()
    thread.join()
    assert clock.mine()
    assert heard == [False]

    def take_over():
        clock.thread = threading.get_ident()
        heard.append(clock.mine())

    thread = threading.Thread(target=take_over)
    thread.start()
    thread.join()
    assert heard == [False, True]
    assert not clock.mine()


class FakeEvent:
    """What ``torch.cuda.Event`` would be on a device with a time of its own."""

    now = 0.0

    def record(self):
        """Note the device's time."""
        self.at = FakeEvent.now

    def elapsed_time(self, end):
        """Milliseconds from this event to ``end``."""
        return (end.at - self.at) * 1e3


def test_device_phases_come_from_events(ticking):
    """With events the device's time by phase is what passed between them, and is read off once."""
    clock = ticking.clock
    assert clock.device_phases() is None
    clock.use_events(FakeEvent)
    clock.push(FORWARD)
    FakeEvent.now += 2.0
    clock.pop()
    FakeEvent.now += 1.0
    clock.push(BACKWARD)
    FakeEvent.now += 4.0
    clock.pop()
    found = dict(zip(PHASES, clock.device_phases(), strict=True))
    assert found["forward"] == pytest.approx(2.0)
    assert found["backward"] == pytest.approx(4.0)
    assert sum(found.values()) == pytest.approx(7.0)
    assert sum(clock.device_phases()) == 0.0
