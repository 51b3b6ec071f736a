"""Tests of how blocks are paired with the control blocks beside them."""

import math
import random
import statistics

import builders
import pytest

from perfdoc.core import blocks, stats

pytestmark = pytest.mark.any_python


def block(i, arm, seconds, *, lap=0, phase="screen", count=4):
    """A block of ``count`` steps that take ``seconds`` each."""
    return builders.block(i, arm, seconds * count, count, phase, lap=lap)


def speedups(found, arm="x=1", phase="screen"):
    """The paired speed-ups of an arm as ratios."""
    return [math.exp(pair.value) for pair in blocks.log_speedups(found)[arm, phase]]


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


def stepped(arm, *steps, i=0):
    """A block made of these steps."""
    return builders.block(i, arm, sum(steps), len(steps), steps=list(steps))


def counted(found, arm="a"):
    """Seconds a step of every block of ``arm``, stalls cut down, in a comparison with the control."""
    longest = blocks.Stalls(found).longest(arm, "control" if arm != "control" else "a")
    return [math.exp(blocks.log_seconds(block, longest)) for block in found if block.arm == arm]


EVEN = stepped("control", *[1.0] * 8)


@pytest.mark.parametrize("arm", ["a", "control"])
def test_a_single_stalled_step_is_cut_down(arm):
    """One step of three times its like counts as one and a half times the slowest of the others, on either side."""
    steps = [(1.0, 1.1), (1.0, 3.0), (1.0, 1.0), (1.0, 1.0)]
    found = [stepped(arm, *pair) for pair in steps] + ([EVEN] if arm == "a" else [stepped("a", *[1.0] * 8)])
    assert counted(found, arm)[:4] == pytest.approx([1.05, (1.0 + 1.65) / 2, 1.0, 1.0])


@pytest.mark.parametrize("controls", [1, 8, 50])
def test_bursts_are_no_stalls(controls):
    """Every eighth step waits for a burst of workers: that is how this arm is, and nothing of it is cut."""
    bursts = [stepped("a", *(1.0 if place else 5.0 for place in range(8))) for _ in range(4)]
    assert counted([*bursts, *[EVEN] * controls]) == [1.5] * 4


@pytest.mark.parametrize("steps", [(1.0, 9.0), (1.0, 1.0, 9.0), (1.0, 1.0, 1.0, 1.0, 9.0)])
def test_a_stall_among_few_steps_is_cut_like_one_of_the_control(steps):
    """An arm of two steps, one of which stalled, is as slow as that step at the most that counts of the control's."""
    assert counted([stepped("a", *steps), EVEN, EVEN]) == pytest.approx([(len(steps) - 1 + 1.5) / len(steps)])


def test_few_steps_of_the_control_cut_nothing():
    """From seven steps of the control nobody can tell how far steps lie apart: neither side is cut."""
    found = [stepped("control", 1.0, 1.0, 9.0), stepped("control", 1.0, 1.0, 1.0, 1.0), stepped("a", *[1.0] * 9, 9.0)]
    assert counted(found) == pytest.approx([1.8])
    assert counted(found, "control") == pytest.approx([11 / 3, 1.0])


def design(rng, order, count=1, noise=0.03, stalls=0.0):
    """Blocks in this order, of ``count`` steps of noise each, of which a share takes three times as long."""
    found = []
    for i, arm in enumerate(order):
        steps = [math.exp(rng.gauss(0, noise)) * (3.0 if rng.random() < stalls else 1.0) for _ in range(count)]
        found.append(stepped(arm, *steps, i=i))
    return found


@pytest.mark.parametrize(("count", "pairs"), [(2, 1), (2, 3), (3, 2), (4, 1), (4, 4), (8, 1), (8, 4)])
def test_stalls_favour_neither_side(count, pairs):
    """Steps that stall as often in the arm as in the control leave its mean log speed-up at zero, however few there are."""
    rng = random.Random(1)
    order = ["control"] * 5 + ["x=1", "control"] * pairs
    means = [
        statistics.fmean(blocks.arm_values(blocks.log_speedups(design(rng, order, count, stalls=0.03)), "x=1"))
        for _ in range(1500)
    ]
    assert abs(statistics.fmean(means)) < 0.009


# -- pairs that share control blocks


@pytest.mark.parametrize(("order", "single", "common"), [
    (["control", "x=1", "control"], 1.5, 0.0),
    (["control", "x=1", "control", "x=1", "control"], 1.5, 0.25),
    (["control", "x=1", "control", "x=1", "control", "x=1", "control"], 1.5, 0.5 / 3),
    (["control", "x=1", "y=1", "control", "y=1", "y=1", "control", "x=1", "control"], (14 / 9 + 1.5) / 2, 0.0),
    (["control", "x=1", "y=1", "control", "x=1", "y=1", "control"], 14 / 9, 2 / 9),
    (["control", "x=1", "x=1"], 2.0, 1.0),
], ids=["one pair", "two", "three", "none shared", "two arms a control", "one control for all"])
def test_what_pairs_have_in_common_follows_from_the_design(order, single, common):
    """The variance of a pair and the covariance of two, counted by hand from the shares of their controls."""
    pairs = blocks.log_speedups([block(i, arm, 0.1) for i, arm in enumerate(order)])
    found = blocks.overlap(pairs, "x=1")
    assert found == (pytest.approx(single) if len(pairs["x=1", "screen"]) > 1 else 1.5, pytest.approx(common))


def test_laps_share_no_controls():
    """Blocks of two laps at the same positions are compared with controls of their own."""
    found = [block(i, arm, 0.1, lap=lap) for lap in (0, 1) for i, arm in enumerate(["control", "x=1", "control"])]
    assert blocks.overlap(blocks.log_speedups(found), "x=1") == (1.5, 0.0)


@pytest.mark.parametrize(("order", "pairs"), [
    (["x=1", "control"], 4), (["x=1", "control"], 12), (["x=1", "y=1", "control"], 8), (["x=1", "x=1", "control"], 4)])
def test_the_variance_of_the_mean_is_that_of_the_design(order, pairs):
    """Over 3000 simulated phases the mean of the pairs varies as much as their scatter and the design say together."""
    rng = random.Random(3)
    means, said = [], []
    for _ in range(3000):
        found = blocks.log_speedups(design(rng, ["control", *order * pairs]))
        values = blocks.arm_values(found, "x=1")
        means.append(statistics.fmean(values))
        said.append(statistics.variance(values) / len(values) * blocks.overlap(found, "x=1").inflation(len(values)))
    assert statistics.fmean(said) == pytest.approx(statistics.variance(means), rel=0.1)


@pytest.mark.parametrize("pairs", [4, 8, 16])
@pytest.mark.parametrize("quiet", [1.0, 0.2], ids=["as noisy as the control", "quieter than the control"])
def test_the_interval_of_the_confirm_phase_holds_the_truth(pairs, quiet):
    """In c p c p c the 95% interval, without what it is widened for peeking, holds the truth in at least 94% of 500 phases."""
    rng = random.Random(pairs)
    held = 0
    for _ in range(500):
        order = ["control"] * 3 + ["x=1", "control"] * pairs
        found = [block(i, arm, math.exp(rng.gauss(0, 0.03 * (quiet if arm == "x=1" else 1.0))), phase="confirm")
                 for i, arm in enumerate(order)]
        values = blocks.log_speedups(found)
        shown = stats.interval(blocks.arm_values(values, "x=1", confirm=True), blocks.control_noise(found),
                               0.05 * stats.DISPLAY_LOOKS, blocks.overlap(values, "x=1", confirm=True))
        held += shown.low <= 0 <= shown.high
    assert held >= 0.94 * 500
