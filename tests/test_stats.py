"""Tests of perfdoc.core.stats against tables and against simulations whose truth is known."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfdoc.core import stats

pytestmark = pytest.mark.any_python

SMALLEST = 0.02
NOISE = 0.015


def pairs(rng, count, effect=0.0, noise=NOISE, stalls=0.1):
    """Paired log speed-ups around ``effect``; in a share of ``stalls`` the arm or its control stood still."""
    values = []
    for _ in range(count):
        value = effect + rng.gauss(0, noise)
        if rng.random() < stalls:
            value += rng.choice((-1, 1)) * rng.uniform(0.1, 0.4)
        values.append(value)
    return values


def verdict_with_peeking(values, comparisons=8, noise=NOISE):
    """What an experiment says that looks at every one of ``stats.LOOKS`` and stops at the first verdict."""
    for look in stats.LOOKS:
        if look > len(values):
            break
        judged = stats.judge(values[:look], SMALLEST, comparisons, 1.5 * noise**2)
        if judged != "undecided":
            return judged
    return "undecided"


@pytest.mark.parametrize(
    ("error", "df", "expected"),
    [
        (0.05, 1, 12.7062), (0.05, 2, 4.3027), (0.05, 5, 2.5706), (0.05, 10, 2.2281), (0.05, 30, 2.0423),
        (0.01, 1, 63.6567), (0.01, 4, 4.6041), (0.01, 20, 2.8453), (0.001, 10, 4.5869), (0.10, 120, 1.6577),
        (0.05, 100000, 1.9600), (0.5, 3, 0.7649),
    ],
)
def test_t_critical_is_the_table_value(error, df, expected):
    """The critical values of Student's t agree with printed tables to four digits."""
    assert stats.t_critical(error, float(df)) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("error", "df"), [(0.0, 5.0), (1.0, 5.0), (-0.1, 5.0), (0.05, 0.0), (0.05, -1.0)])
def test_t_critical_refuses_what_has_no_answer(error, df):
    """An impossible error rate or number of degrees of freedom raises instead of giving a number."""
    with pytest.raises(ValueError, match="t_critical"):
        stats.t_critical(error, df)


@given(st.floats(0.0005, 0.5), st.floats(1.0, 200.0))
@settings(max_examples=40, deadline=None)
def test_t_critical_grows_as_the_error_or_the_data_shrink(error, df):
    """A smaller error or fewer degrees of freedom never lower the critical value."""
    assert stats.t_critical(error / 2, df) > stats.t_critical(error, df)
    assert stats.t_critical(error, df) > stats.t_critical(error, df + 1.0)


def test_trimmed_mean_ignores_stalls():
    """One value in five may be anything without moving the trimmed mean far."""
    assert stats.trimmed_mean([0.01, 0.02, 0.03, 0.02, 50.0]) == pytest.approx(0.07 / 3)
    assert stats.trimmed_mean([3.0]) == 3.0


def test_control_noise_needs_five_blocks():
    """Four control blocks are too few to say anything about the noise."""
    assert stats.control_noise([0.0, 0.1, 0.0, 0.1]) is None


def test_control_noise_ignores_a_steady_drift():
    """A machine that slows down steadily has no noise between neighbouring control blocks."""
    assert stats.control_noise([0.01 * i for i in range(12)]) == pytest.approx(0.0, abs=1e-12)


def test_control_noise_estimates_the_variance_against_two_neighbours():
    """For independent normal blocks the estimate is near 1.5 times their variance, stalls notwithstanding."""
    rng = random.Random(1)
    blocks = [rng.gauss(0, 0.02) + (0.5 if rng.random() < 0.01 else 0.0) for _ in range(3000)]
    assert stats.control_noise(blocks) == pytest.approx(1.5 * 0.02**2, rel=0.2)


@pytest.mark.parametrize("values", [[], [0.1]])
def test_interval_needs_two_pairs(values):
    """Below two pairs there is no interval, and no invented one."""
    with pytest.raises(ValueError, match="two pairs"):
        stats.interval(values)


def test_interval_as_ratios():
    """The interval in ratios is the exponential of the one in logs, with the number of pairs kept."""
    found = stats.interval([0.10, 0.12, 0.11, 0.09, 0.10, 0.11])
    assert found.low < found.center < found.high
    assert found.speedup == pytest.approx((math.exp(found.center), math.exp(found.low), math.exp(found.high)))
    assert found.pairs == 6


@given(st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=12))
@settings(max_examples=40, deadline=None)
def test_interval_contains_its_centre_and_mirrors(values):
    """Exchanging arm and control turns the estimate over, and the estimate always lies inside."""
    found, mirrored = stats.interval(values), stats.interval([-v for v in values])
    assert found.low <= found.center <= found.high
    assert mirrored.center == pytest.approx(-found.center, abs=1e-12)


@pytest.mark.parametrize(("count", "stalls"), [(4, 0.0), (6, 0.0), (10, 0.1), (17, 0.15)])
def test_interval_covers_the_truth(count, stalls):
    """The 95% interval contains the true effect at least that often, also when blocks stall."""
    rng = random.Random(count)
    repetitions = 250
    covered = 0
    for _ in range(repetitions):
        found = stats.interval(pairs(rng, count, effect=0.05, stalls=stalls), 1.5 * NOISE**2)
        covered += found.low <= 0.05 <= found.high
    assert covered / repetitions >= 0.93


def test_interval_of_many_quiet_pairs_is_narrow():
    """Intervals are not made to cover by being useless: 17 pairs at 1.5% noise are known to within 2%."""
    rng = random.Random(5)
    widths = [found.high - found.low for found in (stats.interval(pairs(rng, 17, stalls=0.0)) for _ in range(50))]
    assert sorted(widths)[25] < 0.04


def test_judge_waits_for_four_pairs():
    """However clear three pairs look, nothing is said about them."""
    assert stats.judge([0.5, 0.5, 0.5], SMALLEST, 1) == "undecided"


@pytest.mark.parametrize("sign", [1, -1])
def test_judge_tells_helping_from_hurting(sign):
    """A clear effect is a verdict in its own direction."""
    rng = random.Random(3)
    assert stats.judge(pairs(rng, 10, sign * 0.15, stalls=0.0), SMALLEST, 8) == ("helps" if sign > 0 else "hurts")


def test_judge_never_praises_what_is_below_the_smallest_effect():
    """A real effect that is smaller than what was asked for is no difference, however sure it is."""
    rng = random.Random(4)
    assert stats.judge(pairs(rng, 30, 0.005, noise=0.002, stalls=0.0), SMALLEST, 8) == "no difference"


def test_judge_gets_stricter_with_more_arms():
    """What is enough for one question alone is not enough when it is one among many thousands."""
    values = [0.050, 0.065, 0.055, 0.070, 0.060, 0.058, 0.062, 0.054]
    assert stats.judge(values, SMALLEST, 1) == "helps"
    assert stats.judge(values, SMALLEST, 10**9) == "undecided"


def test_judge_raises_few_false_alarms_under_peeking():
    """Looking again and again at an arm without effect claims one in fewer than one of fifty scans, stalls included."""
    rng = random.Random(11)
    claimed = sum(verdict_with_peeking(pairs(rng, 17)) in ("helps", "hurts") for _ in range(150))
    assert claimed <= 2


def test_judge_finds_effects_that_are_there():
    """A 10% effect under 1.5% noise and stalls is found nearly always within 17 pairs, and never turned over."""
    rng = random.Random(12)
    said = [verdict_with_peeking(pairs(rng, 17, 0.10)) for _ in range(80)]
    assert said.count("helps") >= 72
    assert "hurts" not in said


CLEAR = [0.15, 0.16, 0.14, 0.15, 0.17, 0.13]


@pytest.mark.parametrize("sign", [1, -1])
def test_keep_does_not_take_a_verdict_back(sign):
    """What was settled stays as long as the interval says the same, although the strict judge would not say it now."""
    values = [sign * value for value in (0.10, 0.02, 0.12, 0.05, 0.09, 0.07)]
    settled = "helps" if sign > 0 else "hurts"
    assert stats.judge(values, SMALLEST, 1000) == "undecided"
    assert stats.keep(settled, values, SMALLEST, 1000, None) == settled


def test_keep_drops_a_verdict_that_later_blocks_contradict():
    """A verdict that the interval no longer bears, or that is below the effect asked for now, is given up."""
    assert stats.keep("helps", [-v for v in CLEAR], SMALLEST, 8, None) == "undecided"
    assert stats.keep("helps", [0.2, -0.3, 0.1, -0.2, 0.3, 0.0], SMALLEST, 8, None) == "undecided"
    assert stats.keep("helps", CLEAR, 0.5, 8, None) == "undecided"


@pytest.mark.parametrize("settled", [None, "no difference", "undecided"])
def test_keep_judges_anew_what_was_not_claimed(settled):
    """Only claims are kept; all else is judged by all the blocks there are."""
    assert stats.keep(settled, CLEAR, SMALLEST, 8, None) == stats.judge(CLEAR, SMALLEST, 8)


def test_pairs_to_settle_of_hardly_any_pairs_reaches_the_first_look():
    """Without an estimate the answer is what the first look needs."""
    assert stats.pairs_to_settle([], SMALLEST, 8) == stats.LOOKS[0]
    assert stats.pairs_to_settle([0.1], SMALLEST, 8) == stats.LOOKS[0] - 1


def test_pairs_to_settle_grows_with_the_noise():
    """The same estimate under more noise takes more pairs."""
    quiet = stats.pairs_to_settle([0.04, 0.06, 0.05, 0.07, 0.03, 0.05], SMALLEST, 8)
    noisy = stats.pairs_to_settle([-0.05, 0.15, 0.05, 0.2, -0.1, 0.05], SMALLEST, 8)
    assert quiet is not None
    assert noisy is not None
    assert quiet < noisy


def test_pairs_to_settle_gives_up_on_the_border():
    """An estimate exactly on the smallest effect is never settled, and that is said."""
    bound = math.log1p(SMALLEST)
    values = [bound - 0.0001, bound - 0.05, bound + 0.05, bound - 0.05, bound + 0.05, bound - 0.0001]
    assert stats.pairs_to_settle(values, SMALLEST, 8) is None


def test_pairs_to_settle_is_about_right():
    """With as many more pairs as were asked for, most undecided arms are settled."""
    rng = random.Random(21)
    settled = asked = 0
    for _ in range(40):
        values = pairs(rng, 6, 0.05, noise=0.04, stalls=0.0)
        if stats.judge(values, SMALLEST, 8) != "undecided":
            continue
        more = stats.pairs_to_settle(values, SMALLEST, 8)
        if more is None or more > 60:
            continue
        asked += 1
        settled += stats.judge(values + pairs(rng, 2 * more, 0.05, noise=0.04, stalls=0.0), SMALLEST, 8) != "undecided"
    assert asked >= 10
    assert settled >= 0.7 * asked
