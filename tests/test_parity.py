"""Loss parity: what counts as the same numbers, as rounding, and as a change of the training."""

from __future__ import annotations

import math
import random

import pytest

from perfdoc.core.numerics import deviation, explain, judge, seed_free_cosine, spread

pytestmark = pytest.mark.any_python


def trajectory(seed=0, steps=20, shift=0.0, factor=1.0):
    """A falling loss with noise from batch to batch."""
    rng = random.Random(seed)
    return [factor * (2.0 * math.exp(-step / 15) + rng.gauss(0, 0.05)) + shift for step in range(steps)]


def record(losses, control=None, again=None, others=None, error=1e-3, cosine=0.9999, noise=0.0):
    control = trajectory() if control is None else control
    return {
        "arm": "x=on", "losses": losses, "control": control, "again": control if again is None else again,
        "others": [trajectory(seed) for seed in (1, 2)] if others is None else others,
        "gradient_error": error, "gradient_cosine": cosine, "gradient_noise": noise,
    }


def test_equal_numbers_are_the_same():
    """A treatment that computes bit by bit what the control computes has the same numbers."""
    assert judge(record(trajectory(), error=0.0, cosine=1.0)) == "same numbers"


def test_the_last_bits_are_the_same_numbers():
    """Differences in the last bits of float32 (another order of summation) are the same numbers."""
    assert judge(record([loss * (1 + 3e-7) for loss in trajectory()], error=5e-6, cosine=1.0)) == "same numbers"


def test_reduced_precision_is_rounding():
    """A loss half a per cent off whose trajectory stays within the control's spread is rounding."""
    losses = [loss * (1 + 0.004 * (-1) ** step) for step, loss in enumerate(trajectory())]
    assert judge(record(losses, error=0.03, cosine=0.9995)) == "rounding"


@pytest.mark.parametrize("change", [
    {"losses": trajectory(shift=0.5)},
    {"losses": trajectory(factor=1.2)},
    {"losses": [*trajectory(steps=10), *trajectory(steps=10, shift=1.0)]},
    {"losses": trajectory(), "cosine": 0.5, "error": 0.9},
    {"losses": [None, *trajectory()[1:]]},
    {"losses": [*trajectory(steps=19), math.inf]},
], ids=["shifted", "scaled", "drifts away", "other gradients", "not a number", "infinite"])
def test_other_numbers_change_the_training(change):
    """A loss off by more than rounding, a trajectory outside the spread, other gradients and NaN change the training."""
    change = {"error": 0.03, "cosine": 0.9995, **change}
    assert judge(record(**change)) == "changes training"


def test_noise_of_the_control_is_allowed():
    """Where the control itself does not repeat (atomics, other threads), a treatment may differ by as much."""
    control, again = trajectory(), [loss * 1.001 for loss in trajectory()]
    assert judge(record([loss * 1.0008 for loss in control], control, again, error=0.01, noise=0.01)) == "same numbers"


@pytest.mark.parametrize("broken", [{"losses": []}, {"control": []}, {"control": [None] * 20}],
                         ids=["no steps", "no control", "control diverged"])
def test_what_cannot_be_compared_is_not_checked(broken):
    """Without steps, or where the control itself is not a number, nothing is said about the numbers."""
    assert judge(record(**{"losses": trajectory(), **broken})) == "not checked"
    assert explain(record(**{"losses": trajectory(), **broken}))


@pytest.mark.parametrize("first", [0.19, 0.26])
def test_a_step_that_does_not_repeat_itself_tells_nothing(first):
    """A script that makes its own batches gives other ones each time: neither the same numbers nor a change can be seen."""
    control, again = trajectory(), trajectory(seed=3)
    control[0], again[0] = 0.205, 0.185
    found = record([first, *trajectory(seed=4)[1:]], control=control, again=again, error=7.0, cosine=-0.98, noise=32.0)
    assert judge(found) == "not checked"
    assert "the script's own step gives another loss (9.8% off) or other gradients" in explain(found)


def test_the_spread_is_that_of_other_seeds():
    """The spread is the largest distance of the control's other runs from its first."""
    found = record(trajectory())
    assert spread(found) == max(deviation(run, found["control"]) for run in found["others"])
    assert "other seeds by up to" in explain(found)


def test_one_step_is_judged_by_itself():
    """Where steps are slow only the first is compared: loss and gradients decide."""
    assert judge(record([2.001], [2.0], [2.0], [], error=0.02, cosine=0.999)) == "rounding"
    assert judge(record([2.6], [2.0], [2.0], [], error=0.02, cosine=0.999)) == "changes training"


# -- steps that draw random numbers


def drawn(losses=None, free=0.99, free_error=0.02, arm=(2.0, 2.1, 1.9, 2.05), cosine=0.3, **more):
    """A record of a treatment in a network with dropout: by the raw cosine alone it trains otherwise."""
    seeds = [trajectory(), trajectory(1), trajectory(2)]
    found = record(trajectory(3) if losses is None else losses, seeds[0], others=seeds[1:], error=1.1, cosine=cosine)
    return found | {"seed_losses": [2.0, 2.15, 1.95, 2.0], "seed_error": 1.2, "arm_losses": list(arm), "seed_free_cosine": free,
                    "seed_free_error": free_error, **more}


def test_other_masks_are_no_other_training():
    """Gradients as far off as other seeds of the control are, with the same mean: rounding, and the line says what seeds do."""
    assert judge(record(trajectory(3), error=1.1, cosine=0.3)) == "changes training"
    assert judge(drawn()) == "rounding"
    assert "other seeds alone" in explain(drawn())


@pytest.mark.parametrize("change", [
    {"free": 0.4}, {"arm": (4.0, 4.1, 3.9, 4.0)}, {"arm": (2.0, None, 2.0, 2.0)}, {"losses": trajectory(3, shift=2.0)}],
    ids=["other mean gradients", "another mean loss", "not a number under one seed", "trajectory drifts away"])
def test_what_seeds_do_not_explain_changes_the_training(change):
    """A wrong operator in a network with dropout is still seen: in the mean over seeds, or over the steps."""
    assert judge(drawn(**change)) == "changes training"


@pytest.mark.parametrize("change", [
    {"free": 0.8, "free_error": 0.3}, {"free": None, "free_error": None}, {"free": 0.88, "free_error": 0.03}, {"arm": ()}],
    ids=["unsure", "means drown", "on the border", "no time"])
def test_where_seeds_do_as_much_there_is_no_power(change):
    """Noise of the seeds that hides a real change: not checked, and the line says no power."""
    assert judge(drawn(**change)) == "not checked"
    assert "no power" in explain(drawn(**change))


def test_without_a_learning_rate_the_steps_tell_nothing():
    """Weights that do not move: the first step counts, the trajectory does not, and that is said."""
    still = record(trajectory(shift=0.5), error=0.02) | {"moved": 1e-9}
    still["losses"][0] = still["control"][0] * 1.001
    assert judge(still) == "rounding"
    assert "no power beyond the first step" in explain(still)
    assert judge(still | {"gradient_cosine": 0.2}) == "changes training"
    assert judge(still | {"moved": 1e-2}) == "changes training"


def test_the_cosine_without_what_seeds_do():
    """Means that agree under noise twice as large, and means at a right angle, from 4 seeds."""
    rng = random.Random(2)

    def sets(mean):
        return [[m + rng.gauss(0, 2) for m in mean] for _ in range(4)]

    def products(rows, columns):
        return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in rows]

    mean = [rng.gauss(0, 1) for _ in range(4000)]
    control, same, other = sets(mean), sets(mean), sets([rng.gauss(0, 1) for _ in range(4000)])
    for arm, truth in ((same, 1.0), (other, 0.0)):
        cosine, error = seed_free_cosine(products(control, control), products(arm, arm), products(arm, control))
        assert abs(cosine - truth) < 3 * error + 0.02
        assert error < 0.15
