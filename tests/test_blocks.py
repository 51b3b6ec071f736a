"""Tests of how blocks are paired with the control blocks beside them."""

import math

import pytest

from perfdoc import blocks


def block(i, arm, seconds, *, lap=0, phase="screen", count=4):
    """A block of ``count`` steps that take ``seconds`` each."""
    return {"lap": lap, "i": i, "arm": arm, "phase": phase, "count": count, "seconds": seconds * count}


def speedups(found, arm="x=1", phase="screen"):
    """The paired speed-ups of an arm as ratios."""
    return [math.exp(value) for _, value in blocks.log_speedups(found)[arm, phase]]


def test_an_arm_is_compared_with_the_controls_around_it():
    """An arm twice as fast as the control before and after it has a speed-up of 2."""
    assert speedups([block(0, "control", 0.2), block(1, "x=1", 0.1), block(2, "control", 0.2)]) == pytest.approx([2.0])


def test_a_block_is_judged_by_the_step_and_not_by_its_length():
    """A block of more steps is not slower for it."""
    found = [block(0, "control", 0.1), block(1, "x=1", 0.1, count=50), block(2, "control", 0.1)]
    assert speedups(found) == pytest.approx([1.0])


def test_a_steady_drift_cancels():
    """When every block is slower than the one before by the same factor, an arm without effect shows none."""
    arms = ["control", "x=1", "y=1", "control", "y=1", "x=1", "control"]
    found = [block(i, arm, 0.1 * 1.05**i) for i, arm in enumerate(arms)]
    assert speedups(found) == pytest.approx([1.0, 1.0])
    assert speedups(found, "y=1") == pytest.approx([1.0, 1.0])


def test_the_nearer_control_weighs_more():
    """Between two controls the reference follows the position of the block."""
    found = [block(0, "control", 0.1), block(1, "x=1", 0.1), block(2, "y=1", 0.1), block(3, "control", 0.8)]
    assert speedups(found) == pytest.approx([2.0])
    assert speedups(found, "y=1") == pytest.approx([4.0])


@pytest.mark.parametrize("order", [("control", "x=1"), ("x=1", "control")])
def test_one_control_will_do(order):
    """A block at the edge of its lap is compared with the only control there is."""
    seconds = {"control": 0.3, "x=1": 0.1}
    assert speedups([block(i, arm, seconds[arm]) for i, arm in enumerate(order)]) == pytest.approx([3.0])


def test_without_a_control_there_is_no_pair():
    """Blocks of a lap without any control are compared with nothing."""
    found = [block(0, "x=1", 0.1, lap=1), block(1, "y=1", 0.1, lap=1), block(0, "control", 0.1, lap=0)]
    assert blocks.log_speedups(found) == {}


def test_laps_are_kept_apart():
    """A control of another lap is never a neighbour, although its position would fit."""
    found = [
        block(0, "control", 0.1, lap=0), block(1, "x=1", 0.1, lap=0),
        block(0, "control", 0.4, lap=1), block(1, "x=1", 0.2, lap=1), block(2, "control", 0.4, lap=1),
    ]
    assert speedups(found) == pytest.approx([1.0, 2.0])


def test_the_order_of_the_list_does_not_matter():
    """Blocks are sorted by their position before they are paired."""
    found = [block(0, "control", 0.1), block(1, "x=1", 0.1), block(2, "control", 0.1), block(3, "x=1", 0.05)]
    assert sorted(speedups(found[::-1])) == pytest.approx(sorted(speedups(found)))


def test_blocks_without_a_counted_step_are_left_out():
    """An empty block is neither an arm's pair nor anybody's control."""
    empty = [block(2, "control", 0.9, count=0), block(3, "x=1", 0.1, count=0)]
    found = [block(0, "control", 0.2), block(1, "x=1", 0.1), *empty]
    assert speedups(found) == pytest.approx([2.0])


def test_the_confirm_phase_is_kept_apart():
    """Values of the confirm phase are those of that phase alone, all others are the rest."""
    found = [
        block(0, "control", 0.1), block(1, "x=1", 0.05), block(2, "control", 0.1), block(3, "x=1", 0.05, phase="search"),
        block(4, "control", 0.1), block(5, "x=1", 0.1, phase="confirm"), block(6, "control", 0.1),
    ]
    pairs = blocks.log_speedups(found)
    assert blocks.arm_values(pairs, "x=1", confirm=True) == pytest.approx([0.0])
    assert blocks.arm_values(pairs, "x=1") == pytest.approx([math.log(2)] * 2)


def test_noise_is_that_of_the_worst_lap():
    """One quiet lap does not hide the noise of another."""
    quiet = [block(i, "control", 0.1, lap=0) for i in range(8)]
    noisy = [block(i, "control", 0.1 * (1.0 + 0.2 * (i % 2)), lap=1) for i in range(8)]
    assert blocks.control_noise(quiet) == pytest.approx(0.0)
    assert blocks.control_noise(quiet + noisy) == pytest.approx(blocks.control_noise(noisy))
    assert blocks.control_noise(noisy) > 0.01


def test_noise_of_few_controls_is_unknown():
    """Where no lap has enough control blocks there is no figure for the noise."""
    assert blocks.control_noise([block(i, "control", 0.1, lap=i // 4) for i in range(8)]) is None


def stepped(arm, *steps):
    """A block made of these steps."""
    return {"lap": 0, "i": 0, "arm": arm, "phase": "screen", "count": len(steps), "seconds": sum(steps), "steps": list(steps)}


def test_a_single_stalled_step_is_cut_down():
    """One step of three times its like counts as one and a half times the slowest of the others."""
    found = blocks.without_stalls(
        [stepped("a", 1.0, 1.1), stepped("a", 1.0, 3.0), stepped("a", 1.0, 1.0), stepped("a", 1.0, 1.0)]
    )
    assert [round(block["seconds"], 6) for block in found] == [2.1, 1.0 + 1.65, 2.0, 2.0]


def test_bursts_are_no_stalls():
    """Every eighth step waits for a burst of workers: that is how this arm is, and nothing is cut."""
    bursts = [stepped("a", *(1.0 if place else 5.0 for place in range(8))) for _ in range(4)]
    assert blocks.without_stalls(bursts) == bursts


def test_few_steps_are_left_alone():
    """From seven steps nobody can tell which is the stall."""
    few = [stepped("a", 1.0, 1.0, 9.0), stepped("a", 1.0, 1.0), stepped("a", 1.0, 1.0)]
    assert blocks.without_stalls(few) == few
