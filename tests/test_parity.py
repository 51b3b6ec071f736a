"""Loss parity: what counts as the same numbers, as rounding, and as a change of the training."""

from __future__ import annotations

import math
import random

import pytest

from perfdoc.parity import deviation, explain, judge, spread


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


def test_the_spread_is_that_of_other_seeds():
    """The spread is the largest distance of the control's other runs from its first."""
    found = record(trajectory())
    assert spread(found) == max(deviation(run, found["control"]) for run in found["others"])
    assert "other seeds by up to" in explain(found)


def test_one_step_is_judged_by_itself():
    """Where steps are slow only the first is compared: loss and gradients decide."""
    assert judge(record([2.001], [2.0], [2.0], [], error=0.02, cosine=0.999)) == "rounding"
    assert judge(record([2.6], [2.0], [2.0], [], error=0.02, cosine=0.999)) == "changes training"
