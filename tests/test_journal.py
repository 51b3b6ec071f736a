"""The journal of what a script wrote and removed: read by several threads and processes at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfdoc.inject.guard.journal import Journal

pytestmark = pytest.mark.any_python
COUNT = 1500


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads are switched all the time, as while lines are looked at."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def test_a_thread_that_reads_in_the_midst_of_another_ones_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read the same lines; what comes next is read from where they end, and not from twice as far."""
    mine, other = Journal(str(tmp_path / "journal")), Journal(str(tmp_path / "journal"))
    other.add("file", "/home/me/first")
    pread, inside = os.pread, []

    def interrupted(file: int, count: int, offset: int) -> bytes:
        if not inside:
            inside.append(True)
            mine.sync()
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", interrupted)
    mine.sync()
    for number in range(20):
        other.add("file", f"/home/me/{number}")
        mine.sync()
    assert mine.names == {"first", *map(str, range(20))}


@pytest.mark.usefixtures("restless")
def test_threads_that_read_at_once_read_whole_lines(tmp_path: Path) -> None:
    """Three threads read what a fourth writes through a journal of its own, as another process would: all know every name."""
    mine, other = Journal(str(tmp_path / "journal")), Journal(str(tmp_path / "journal"))
    failed: list[Exception] = []
    written = threading.Event()

    def read() -> None:
        try:
            while not written.is_set():
                mine.sync()
        except Exception as error:  # told by the test, not by the thread
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(COUNT):
        other.add("file", f"/home/me/{'x' * (number % 40)}{number}")
    written.set()
    for thread in threads:
        thread.join()
    assert failed == []
    mine.sync()
    assert len(mine.names) == COUNT
    assert not mine.empty()
