"""What the thread beside the loop notices and does: standing still, memory that runs short, a scan that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perfdoc.inject.experiment import watchdog
from perfdoc.inject.experiment.watchdog import MORE_SECONDS, STILL_SECONDS, WAKE_SECONDS, Watchdog
from perfdoc.inject.feed.loaders import Source
from perfdoc.inject.system import process_use

GIB = 2**30


class Loop:
    """A session as far as the watchdog sees it; ``now`` is the time of its last sign."""

    def __init__(self, folder: Path, expected: float = 0.0) -> None:
        self.settings = {"parent": 0}
        self.lap = 0
        self.holding = True
        self.enabled = True
        self.ending = None
        self.sign = 0.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.wishes: list[str] = []
        self.done = False
        self.run_dir = str(folder)
        self._expected = expected

    @property
    def recorder(self) -> Loop:
        return self

    @property
    def clock(self) -> Loop:
        return self

    @property
    def conductor(self) -> Loop:
        return self

    def last_sign(self) -> float:
        return self.sign

    def write(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def expected_seconds(self) -> float:
        return self._expected

    def arm_id(self) -> str:
        return "dataloader_workers=2"

    def wish_end(self, why: str) -> None:
        self.wishes.append(f"end: {why}")

    def wish_natural(self, why: str) -> None:
        self.wishes.append(f"natural: {why}")

    def hard_exit(self, why: str) -> None:
        self.wishes.append(f"exit: {why}")


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_use, "free_memory", lambda: 16 * GIB)
    monkeypatch.setattr(process_use, "own_memory", lambda: GIB)
    monkeypatch.setattr(Source, "pausing", True)


def look(loop: Loop, until: float, dog: Watchdog | None = None) -> list[str]:
    """Let the watchdog look once a second; the events that came of it."""
    dog = dog or Watchdog(loop)  # type: ignore[arg-type]
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
    loop, dog = Loop(tmp_path), None
    dog = Watchdog(loop)  # type: ignore[arg-type]
    for second in range(200):
        loop.sign = second - second % int(STILL_SECONDS - 2)
        dog._look(float(second))
    assert loop.events == []


def test_paused_workers_are_woken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was paused may hold what the loop waits for: all are woken within seconds, and none is paused again."""
    monkeypatch.setattr(Source, "any_paused", classmethod(lambda cls: cls.pausing))
    loop = Loop(tmp_path)
    assert look(loop, WAKE_SECONDS + 2) == ["woken"]
    assert Source.pausing is False


def test_nothing_is_perfdocs_doing_before_the_loop_is_held(tmp_path: Path) -> None:
    """A script that stands still by itself, before anything is changed, is not touched."""
    loop = Loop(tmp_path)
    loop.holding = False
    assert look(loop, 300) == []


def test_a_loop_that_pauses_by_itself_may_pause_longer(tmp_path: Path) -> None:
    """Where a batch took half a minute before, half a minute is no standstill; where compiling is expected, neither."""
    loop = Loop(tmp_path)
    loop.holding = False
    dog = Watchdog(loop)  # type: ignore[arg-type]
    for second in range(31):
        dog._look(float(second))
    loop.holding, loop.sign = True, 31.0
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
    dog = Watchdog(loop)  # type: ignore[arg-type]
    dog.held()
    dog._memory()
    assert loop.wishes == []
    monkeypatch.setattr(process_use, "own_memory", lambda: 6 * GIB)
    dog._memory()
    assert [wish.split(":")[0] for wish in loop.wishes] == ["natural"]
    monkeypatch.setattr(process_use, "free_memory", lambda: GIB // 2)
    dog._memory()
    assert [wish.split(":")[0] for wish in loop.wishes] == ["natural", "end"]


def test_a_scan_that_was_killed_ends_its_script(tmp_path: Path) -> None:
    """Politely first, and without asking ten seconds later."""
    loop = Loop(tmp_path)
    dog = Watchdog(loop)  # type: ignore[arg-type]
    for second in (0.0, 5.0, 11.0):
        dog._alone(second)
    assert [wish.split(":")[0] for wish in loop.wishes] == ["end", "exit"]
    assert watchdog._lives(1)
    assert not watchdog._lives(0)
