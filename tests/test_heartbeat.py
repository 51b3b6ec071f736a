"""The parent's look at whether a launch is alive: suspended processes, processes that stand still, loops that never end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfdoc.capture.event import Event
from perfdoc.launch import heartbeat
from perfdoc.launch.heartbeat import Heartbeat

pytestmark = pytest.mark.any_python


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def wait_for(what: Any) -> None:
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def test_a_suspended_process_is_told_to_go_on(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that somebody suspended while the scan goes on is resumed after a while, and that is said."""
    monkeypatch.setattr(heartbeat, "SUSPENDED_SECONDS", 0.0)
    said: list[Event] = []
    watch = Heartbeat(tmp_path, 0, 60, 0, said.append)
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_for(lambda: stopped(sleeper.pid))
    assert watch.trouble(sleeper.pid, {}) == ""
    time.sleep(0.01)
    assert watch.trouble(sleeper.pid, {}) == ""
    wait_for(lambda: not stopped(sleeper.pid))
    assert [event.kind for event in said] == ["resumed"]


def test_a_process_without_a_heartbeat_is_stuck(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A loop whose process lives but whose watchdog does not beat any more is stuck; one that beats is not."""
    watch = Heartbeat(tmp_path, 0, 60, 0, lambda event: None)
    beat = tmp_path / f"beat-0-{sleeper.pid}"
    beat.touch()
    assert watch.trouble(sleeper.pid, {"optimizer step": {}}) == ""
    old = time.time() - 2 * heartbeat.STILL_SECONDS
    os.utime(beat, (old, old))
    assert watch.trouble(sleeper.pid, {"optimizer step": {}}) == "stuck"


def test_a_loop_that_does_not_end_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well beyond the budget a launch is ended, but only once it trains: how long a start may take is --wait's."""
    monkeypatch.setattr(heartbeat, "OVERTIME_SECONDS", -100.0)
    watch = Heartbeat(tmp_path, 0, 60, 0, lambda event: None)
    assert watch.trouble(sleeper.pid, {}) == ""
    assert watch.trouble(sleeper.pid, {"optimizer step": {}}) == "did not end"
