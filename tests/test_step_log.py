"""The step log: single steps in mapped memory."""

import os
import signal
import subprocess
import sys

import pytest

from perfdoc.core import step_log
from perfdoc.core.step_log import RECORDS, StepLog, read

pytestmark = pytest.mark.any_python

PHASES = (0.1, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6)


def test_steps_come_back_as_they_were_stored(tmp_path):
    """Kind, duration and phases are read back exactly, in order, and unused records are none."""
    log = StepLog(str(tmp_path), 0, 7)
    log.add(0, 0.5, PHASES)
    log.add(3, 0.25, PHASES)
    (file,) = tmp_path.glob("steps-0-7-*.bin")
    assert list(read(str(file))) == [
        ("control", 0.5, list(PHASES)), ("irregular", 0.25, list(PHASES)),
    ]


def test_a_full_file_is_followed_by_another(tmp_path):
    """More steps than a file holds go on in the next one; none is lost."""
    log = StepLog(str(tmp_path), 0, 7)
    for number in range(RECORDS + 3):
        log.add(1, float(number), PHASES)
    files = sorted(tmp_path.glob("steps-*.bin"))
    assert [len(list(read(str(file)))) for file in files] == [RECORDS, 3]


def test_steps_survive_kill_9(tmp_path):
    """What was stored before a SIGKILL is in the file afterwards, to the last step."""
    code = (
        "import sys, os, signal\nfrom perfdoc.core.step_log import StepLog\n"
        f"log = StepLog({str(tmp_path)!r}, 0, 1)\n"
        f"for n in range(1234): log.add(0, n / 8, {PHASES})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (file,) = tmp_path.glob("steps-*.bin")
    assert [step.seconds for step in read(str(file))] == [n / 8 for n in range(1234)]


def test_no_room_silences_the_log(tmp_path, monkeypatch):
    """A disk without room is not the user's problem: steps are dropped, nothing is raised."""
    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_log.os, "write", full)
    log = StepLog(str(tmp_path), 0, 7)
    log.add(0, 0.5, PHASES)
    log.add(0, 0.5, PHASES)
    monkeypatch.undo()
    assert all(not list(read(str(file))) for file in tmp_path.glob("steps-*.bin") if os.path.getsize(file))
