"""What the thread beside the loop notices and does: standing still, memory that runs short, a scan that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfdoc.core.alive import lives
from perfdoc.inject.experiment.watchdog import MORE_SECONDS, RESUME_SECONDS, STILL_SECONDS, Watchdog
from perfdoc.inject.experiment.wishes import Wishes
from perfdoc.inject.feed.source import Source
from perfdoc.inject.system import process_use

GIB = 2**30


class Loop:
    """Everything that the watchdog sees of a process; ``sign`` is the time of its last sign of life."""

    def __init__(self, folder: Path, expected: float = 0.0) -> None:
        self.lap = 0
        self.run_dir = str(folder)
        self.sign = 0.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.exits: list[str] = []
        self.wishes = Wishes()
        self.done = False
        self._expected = expected

    def watchdog(self, held: bool = True) -> Watchdog:
        """One that watches this loop, which is the runner that changes it as well, once it is held."""
        dog = Watchdog(self, self, self.wishes, 0, lambda: False, self.exits.append)  # type: ignore[arg-type]
        if held:
            dog.held(self)
        return dog

    def last_sign(self) -> float:
        return self.sign

    def write(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def expected_seconds(self) -> float:
        return self._expected

    def arm_id(self) -> str:
        return "dataloader_workers=2"


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_use, "free_memory", lambda: 16 * GIB)
    monkeypatch.setattr(process_use, "own_memory", lambda: GIB)
    monkeypatch.setattr(Source, "pausing", True)


def look(loop: Loop, until: float, dog: Watchdog | None = None) -> list[str]:
    """Let the watchdog look once a second; the events that came of it."""
    dog = dog or loop.watchdog()
    for second in range(int(until) + 1):
        dog._look(float(second))
    return [event for event, _ in loop.events]


def test_a_loop_that_stands_still_is_given_up_within_a_minute(tmp_path: Path) -> None:
    """Its stacks are written down first; the parent hears that it is stuck, and under what."""
    loop = Loop(tmp_path)
    assert look(loop, STILL_SECONDS - 1) == []
    assert look(Loop(tmp_path), STILL_SECONDS + 2) == ["stalled"]
    assert "stood still under dataloader_workers=2" in (tmp_path / "stacks.txt").read_text()
    assert look(loop, STILL_SECONDS + MORE_SECONDS + 4) == ["stalled", "stuck"]
    assert loop.events[-1][1]["arm"] == "dataloader_workers=2"
    assert STILL_SECONDS + MORE_SECONDS + 4 < 60


def test_a_loop_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    """A sign of life in time is all that it takes."""
    loop = Loop(tmp_path)
    dog = loop.watchdog()
    for second in range(200):
        loop.sign = second - second % int(STILL_SECONDS - 2)
        dog._look(float(second))
    assert loop.events == []


def test_paused_workers_are_woken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was paused may hold what the loop waits for: all are woken within seconds, and none is paused again."""
    monkeypatch.setattr(Source, "any_paused", classmethod(lambda cls: cls.pausing))
    loop = Loop(tmp_path)
    assert look(loop, RESUME_SECONDS + 2) == ["woken"]
    assert Source.pausing is False


def test_nothing_is_perfdocs_doing_before_the_loop_is_held(tmp_path: Path) -> None:
    """A script that stands still by itself, before anything is changed, is not touched."""
    loop = Loop(tmp_path)
    assert look(loop, 300, loop.watchdog(held=False)) == []


def test_a_loop_that_pauses_by_itself_may_pause_longer(tmp_path: Path) -> None:
    """Where a batch took half a minute before, half a minute is no standstill; where compiling is expected, neither."""
    loop = Loop(tmp_path)
    dog = loop.watchdog(held=False)
    for second in range(31):
        dog._look(float(second))
    dog.held(loop)
    loop.sign = 31.0
    for second in range(31, 31 + 80):
        dog._look(float(second))
    assert loop.events == []
    compiling = Loop(tmp_path, expected=30.0)
    assert look(compiling, 100) == []


def test_growing_memory_ends_the_hold_and_little_memory_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a script collects over an epoch is dropped at its end, so the epoch may end; near the limit the scan stops."""
    loop = Loop(tmp_path)
    dog = loop.watchdog()
    dog._memory()
    assert loop.wishes == Wishes()
    monkeypatch.setattr(process_use, "own_memory", lambda: 6 * GIB)
    dog._memory()
    assert loop.wishes.natural
    assert not loop.wishes.end
    monkeypatch.setattr(process_use, "free_memory", lambda: GIB // 2)
    dog._memory()
    assert loop.wishes.end


def test_memory_that_runs_out_within_seconds_ends_the_experiment_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gibibyte a second goes on until half of 16 is gone and five seconds more would take it; a jump of 6 GiB is no pace."""
    loop = Loop(tmp_path)
    dog = loop.watchdog()
    for gone in range(1, 12):
        monkeypatch.setattr(process_use, "free_memory", lambda gone=gone: (16 - gone) * GIB)
        dog._memory()
        if loop.wishes.end:
            break
    assert gone == 10  # 6 left, 5 more to go, and 1.6 are to stay
    jumped = Loop(tmp_path)
    dog = jumped.watchdog()
    for free in (16, 9, 9, 9):
        monkeypatch.setattr(process_use, "free_memory", lambda free=free: free * GIB)
        dog._memory()
    assert not jumped.wishes.end


def test_a_scan_that_was_killed_ends_its_script(tmp_path: Path) -> None:
    """Politely first, and without asking ten seconds later."""
    loop = Loop(tmp_path)
    dog = loop.watchdog()
    for second in (0.0, 5.0):
        dog._alone(second)
    assert loop.wishes.end
    assert not loop.exits
    dog._alone(11.0)
    assert len(loop.exits) == 1
    assert lives(1)
    assert not lives(0)
