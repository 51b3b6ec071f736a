"""A process that trains where perfdoc is not is found from outside; watched ones, their children and others are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from perfdoc.launch import unwatched
from perfdoc.launch.unwatched import Unwatched, told

pytestmark = pytest.mark.any_python

PROGRAM = "import os, sys, time\nprint('ready', flush=True)\ntime.sleep(600)"


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A Python process that takes for torch's library what it has mapped."""
    monkeypatch.setattr(unwatched, "HANDSHAKE_SECONDS", 0.0)
    monkeypatch.setattr(unwatched, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(unwatched, "LIBRARY", "python")
    process = subprocess.Popen([sys.executable, "-I", "-c", PROGRAM], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_with_torch_and_without_perfdoc_is_told_once(child: psutil.Process) -> None:
    """It is told with its command, once, and the scan's last word names it."""
    look = Unwatched()
    events = [event for _ in range(3) for event in look.look([child], set())]
    assert [event.pid for event in events] == [child.pid]
    assert f"process {child.pid}" in told(events)
    assert "-I" in events[0].command


def test_watched_processes_and_their_children_are_none(child: psutil.Process) -> None:
    """A process in which torch is watched, and what it started, is not told; neither is one without torch."""
    assert Unwatched().look([child], {child.pid}) == []
    assert Unwatched().look([child], {psutil.Process().pid}) == []
    unwatched.LIBRARY = "no such library"
    assert Unwatched().look([child], set()) == []
    assert told([]) == ""
