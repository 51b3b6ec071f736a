"""The seconds that an experiment has: counted from the first step, less what earlier launches took, more after a late start."""

from __future__ import annotations

import pytest

from perfdoc.inject.experiment import budget as module
from perfdoc.inject.experiment.budget import LATE_SHARE, Budget


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(module, "time", made)
    return made


def test_it_runs_from_the_first_step(time: Time) -> None:
    """Set-up costs nothing; a second step is no beginning; earlier launches are taken off once it runs."""
    budget = Budget(60.0, 10.0)
    time.now += 500
    assert (budget.remaining(), budget.elapsed()) == (60.0, 0.0)
    assert budget.begin()
    time.now += 20
    assert not budget.begin()
    assert (budget.remaining(), budget.elapsed()) == (30.0, 20.0)
    budget.begin_anew()
    assert budget.begin()
    assert budget.remaining() == 50.0


def test_a_late_start_is_forgiven_but_for_a_share(time: Time) -> None:
    """Thirty seconds between the first step and the known loop, five of them steps: the script's start, not its loop."""
    budget = Budget(60.0, 0.0)
    budget.begin()
    time.now += 30
    assert budget.forgive_late_start(5.0) == pytest.approx(25 - LATE_SHARE * 60)
    assert budget.remaining() == pytest.approx(60 - 5 - LATE_SHARE * 60)


def test_a_start_in_time_is_left_as_it_is(time: Time) -> None:
    """Where the steps themselves took the time, or little was lost, nothing is given back."""
    budget = Budget(60.0, 0.0)
    assert budget.forgive_late_start(0.0) == 0.0
    budget.begin()
    time.now += 30
    assert budget.forgive_late_start(25.0) == 0.0
    assert budget.remaining() == 30.0
