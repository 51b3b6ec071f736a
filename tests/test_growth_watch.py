"""What is noted of the loop at the ends of blocks of its own settings, and when its epoch is let go."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import block
from plain_loop import STEP, Change, PlainLoop, Scripted

from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.metrics import PHASES
from perfdoc.inject.experiment.requests import BlockRequest
from perfdoc.inject.observe import growth
from perfdoc.inject.observe.growth import FIRST, GROWN_BYTES, LAST, RISES, GrowthWatch
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.step_finder import Step
from perfdoc.inject.system import process_use

CONTROL = BlockRequest({}, CONTROL_ARM, "screen")


def test_the_ends_of_control_blocks_are_noted_and_no_others(tmp_path: Path) -> None:
    """Seconds by phase are those of the steps that count; steps of a change are counted, but not looked at."""
    loop = PlainLoop(tmp_path, [Change("fast", 0.5)])
    loop.run(Scripted(CONTROL, BlockRequest({"fast": "on"}, "fast=on", "screen"), CONTROL))
    first, second = loop.recorder.all("moment")
    controls = [entry for entry in loop.recorder.all("block") if entry["arm"] == CONTROL_ARM]
    assert [first["count"], second["count"]] == [entry["count"] for entry in controls]
    assert first["phases"] == second["phases"] == [pytest.approx(STEP), *[0.0] * (len(PHASES) - 1)]
    assert second["steps"] == loop.state.optimizer_calls
    assert first["steps"] < second["steps"]


def test_sizes_are_read_twice_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of blocks that follow each other at once the first has sizes; those that the system tells are the process's own."""
    loop = PlainLoop(tmp_path)
    loop.run(Scripted(CONTROL, CONTROL))
    first, second = loop.recorder.all("moment")
    assert first["memory"] > 2**20
    assert first["free"] > 0
    assert "memory" not in second
    monkeypatch.setattr(growth, "SIZES_SECONDS", 0.0)
    again = PlainLoop(tmp_path)
    again.run(Scripted(CONTROL, CONTROL))
    assert all("memory" in entry for entry in again.recorder.all("moment"))


def test_what_models_are_given_is_weighed_by_the_step(tmp_path: Path) -> None:
    """Warm-up does not count: each step of 96 entries weighs 96."""
    loop = PlainLoop(tmp_path)

    def step() -> None:
        loop.state.weight += 96
        loop.step()

    loop.run(Scripted(CONTROL), step)
    assert loop.recorder.all("moment")[0]["work"] == 96


def test_tensors_alone_have_weight() -> None:
    """Arguments that are no tensors do not count; those given by name do, and those in a batch that is given as a whole."""
    loop = LoopState()
    loop.weigh((torch.zeros(3, 4), 7, {"ids": torch.zeros(100), "n": 3}), {"mask": torch.ones(5), "more": [torch.ones(1000)]})
    assert loop.weight == 1117


def test_memory_of_a_process_is_told_without_what_it_shares() -> None:
    """64 MiB that were written to are this process's alone, in both counts; where there is no such process, None."""
    before, unshared = process_use.anonymous_memory(), process_use.unshared_memory(os.getpid())
    assert before is not None
    assert unshared is not None
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * (len(held) // 4096)
    after = process_use.anonymous_memory()
    assert after is not None
    assert after - before > 60 * 2**20
    assert (process_use.unshared_memory(os.getpid()) or 0) - unshared > 60 * 2**20
    assert process_use.unshared_memory(2**22 + 1) is None


def test_a_strange_optimizer_does_not_end_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its state cannot be looked at there is no share of denormals; that is recorded, and it is not asked again."""
    monkeypatch.setattr(growth, "SIZES_SECONDS", 0.0)
    asked: list[int] = []

    class Strange:
        @property
        def state(self) -> Any:
            asked.append(1)
            raise RuntimeError("sharded elsewhere")

    loop = PlainLoop(tmp_path)
    loop.state.optimizers.append(Strange())
    loop.run(Scripted(CONTROL, CONTROL))
    assert len(loop.recorder.all("moment")) == 2
    assert not any("denormals" in entry for entry in loop.recorder.all("moment"))
    assert asked == [1]
    (failed,) = loop.recorder.all("probe_failed")
    assert "sharded elsewhere" in failed["error"]


# -- when the epoch is let go


class Watched:
    """A loop whose blocks are ended by hand, with this memory and these seconds between its calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(growth, "SIZES_SECONDS", 0.0)
        self.plain = PlainLoop(folder)
        self.watch = GrowthWatch(self.plain.context)
        self._patch = monkeypatch

    def block(self, memory: int = 2**30, other: float = 0.0, free: int = 2**34) -> str:
        """Why the epoch should end, after one more block."""
        self._patch.setattr(process_use, "anonymous_memory", lambda: memory)
        self._patch.setattr(process_use, "free_memory", lambda: free)
        phases = [STEP if phase == "forward" else other if phase == "other" else 0.0 for phase in PHASES]
        self.watch.begin()
        self.watch.on_step(Step(sum(phases), tuple(phases), {}, 1, 1), counted=True)
        return self.watch.ended(block(0, CONTROL_ARM, STEP))


def test_an_epoch_in_which_memory_grows_ends_beyond_its_natural_length(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its length it may grow as it does without perfdoc; as soon as it is longer it is let go, if it grew steadily."""
    loop = Watched(tmp_path, monkeypatch)
    more = GROWN_BYTES // 4
    assert not any(loop.block(memory=2**30 + number * more) for number in range(20))
    loop.plain.state.overran = True
    assert "grows" in loop.block(memory=2**30 + 20 * more)
    level = Watched(tmp_path, monkeypatch)
    level.plain.state.overran = True
    assert not any(level.block(memory=2**30 + number % 2 * 2**29) for number in range(20))
    assert not any(level.block(memory=2**31 + number) for number in range(RISES))


def test_an_epoch_in_which_steps_get_slower_ends_beyond_its_natural_length(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between the calls takes twice as long: a metric over all of an epoch that does not end."""
    loop = Watched(tmp_path, monkeypatch)
    assert not any(loop.block(other=STEP) for _ in range(FIRST))
    assert not any(loop.block(other=2 * STEP) for _ in range(LAST))
    loop.plain.state.overran = True
    assert "slower" in loop.block(other=2 * STEP)
    loop.plain.state.natural = True
    assert not loop.block(other=9 * STEP)
    steady = Watched(tmp_path, monkeypatch)
    steady.plain.state.overran = True
    assert not any(steady.block(other=STEP * (1 + number % 5 // 4)) for number in range(20))


def test_the_runner_passes_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the watch says becomes the wish that epochs may end."""
    monkeypatch.setattr(GrowthWatch, "ended", lambda self, block: "it grows")
    loop = PlainLoop(tmp_path)
    loop.run(Scripted(CONTROL))
    assert loop.wishes.natural == "it grows"
    assert not loop.wishes.end


def test_workers_that_wait_are_ended_where_memory_runs_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was free is gone, and they have a tenth of it; not while there is enough, nor where they have little."""
    closed: list[str] = []

    def ended(unshared: int, free: int) -> list[str]:
        closed.clear()
        loop = Watched(tmp_path, monkeypatch)
        handle: Any = SimpleNamespace(
            pids=[], served=0, epoch=SimpleNamespace(position=7), idle_pids=[1, 2], close_idle=lambda: closed.append("closed"))
        loop.plain.state.loaders.append(handle)
        monkeypatch.setattr(process_use, "unshared_memory", lambda pid: unshared)
        loop.block(free=16 * 2**30)
        loop.block(free=free)
        return closed

    assert ended(2**30, 7 * 2**30) == ["closed"]
    assert ended(2**30, 9 * 2**30) == []
    assert ended(2**20, 7 * 2**30) == []
