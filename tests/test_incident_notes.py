"""What a scan survived is told in the long report, in a line that says what broke."""

from __future__ import annotations

import pytest

from perfdoc.capture.records import Happened
from perfdoc.report.incident_notes import LONGEST, lines

pytestmark = pytest.mark.any_python


def test_an_incident_is_told_once_with_its_error_and_how_often() -> None:
    """Two probes that raised the same, and a standstill: two notes; of a traceback only the line that names the error."""
    broken = 'probe storage, error Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: no such disk\n'
    found = lines([Happened(0, 1.0, "probe_failed", broken), Happened(1, 2.0, "probe_failed", broken),
                   Happened(1, 3.0, "stalled", "arm autocast=bf16")])
    assert found == ["perfdoc: a probe raised (probe storage, RuntimeError: no such disk), 2 times",
                     "perfdoc: the loop gives no sign; all stacks were written down (arm autocast=bf16)"]


def test_an_incident_of_another_version_and_a_long_one_are_told_all_the_same() -> None:
    """A kind that this version does not know is named as it stands; nothing is longer than a line or two."""
    (found,) = lines([Happened(0, 1.0, "moon_fell", "x" * 1000)])
    assert found.startswith("perfdoc: moon_fell (xxx")
    assert len(found) < LONGEST + 40
