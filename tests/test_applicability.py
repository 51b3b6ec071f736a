"""What the treatments offer becomes factors: what a script was seen to do at a line goes first."""

from __future__ import annotations

import pytest

from perfdoc.core.treatment import Level, Offer
from perfdoc.inject.experiment.applicability import factors
from perfdoc.inject.experiment.design import screening_arms


class Treatment:
    """Offers one level."""

    numerics, role, cores, interacts, contradicts = False, "change", "", (), ()

    def __init__(self, phases, site=""):
        self.title, self.phases, self._site = "a change", phases, site

    def offer(self, loop):
        return Offer("offered", (Level("on", "a change"),), site=self._site)

    def work(self, level):
        return 1.0


class Loop:
    """A loop whose backward takes nearly all of the step."""

    class finder:
        @staticmethod
        def shares():
            return {"backward": 0.9, "other": 0.1}


class Recorder:
    """Keeps what is written."""

    def __init__(self):
        self.written = []

    def write(self, kind, **fields):
        self.written.append(fields)


def test_what_was_seen_at_a_line_goes_first():
    """A small phase with a line comes before a large one without; the line is written down, and shares order the rest."""
    recorder = Recorder()
    found = factors(Loop(), {
        "large": Treatment(("backward",)), "small": Treatment(("other",)), "seen": Treatment(("other",), "train.py:33"),
    }, recorder, 60.0)
    assert [next(iter(arm)) for arm in screening_arms(found)] == ["seen", "large", "small"]
    assert [fields["site"] for fields in recorder.written] == ["", "", "train.py:33"]
    assert next(factor.share for factor in found if factor.slug == "large") == pytest.approx(0.9)
