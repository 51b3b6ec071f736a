"""The hold on an epoch: the loop is held, and let go where the script does other work because its epoch does not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from plain_loop import Recorder
from torch.utils.data import DataLoader, TensorDataset

from perfdoc.core.metrics import PHASES
from perfdoc.inject.observe.clock import Partial
from perfdoc.inject.observe.epoch_hold import CHANGED_STEPS, EpochHold
from perfdoc.inject.observe.loop_state import LoopState

BATCHES = 4


class Held:
    """A loop over four batches an epoch, held in its first one."""

    def __init__(self, folder: Path, natural: bool = False) -> None:
        self.loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2)
        self.iterator = iter(self.loader)
        self.loop = LoopState()
        self.handle = self.loop.known_loaders.of(self.loader, self.iterator)
        for _ in range(5):
            self.loop.finder.add(1, self.partial())
        self.recorder = Recorder(folder)
        self.hold = EpochHold(self.loop, self.recorder, natural)  # type: ignore[arg-type]
        self.hold.begin()

    def partial(self, backwards: int = 1) -> Partial:
        return Partial(0.01, (0.01,) + (0.0,) * (len(PHASES) - 1), {0: 1}, 1, backwards)

    def fetch(self) -> Any:
        self.handle.epoch.take()
        return self.handle.fetch()


def test_a_held_loop_has_batches_without_end(tmp_path: Path) -> None:
    """Beyond the epoch's natural length too, which is noted once."""
    held = Held(tmp_path)
    assert held.loop.holding
    assert sum(len(held.fetch()[0]) for _ in range(3 * BATCHES)) == 6 * BATCHES
    assert held.loop.overran
    assert [event["batches"] for event in held.recorder.all("overran")] == [BATCHES]
    assert not held.hold.turned()


def test_a_natural_hold_ends_its_epochs(tmp_path: Path) -> None:
    """Each has its own length, the turn is told once, and the parent hears why."""
    held = Held(tmp_path, natural=True)
    assert held.loop.natural
    assert held.recorder.all("natural")[0]["loaders"] == 1
    taken = 0
    try:
        while taken < 100:
            held.fetch()
            taken += 1
    except StopIteration:
        pass
    assert taken == BATCHES
    assert held.hold.turned()
    assert not held.hold.turned()
    assert held.hold.long_epochs()


def test_other_work_beyond_the_epochs_end_lets_go(tmp_path: Path) -> None:
    """A script that counts its batches does other work from there on: after some steps in a row its epochs end again."""
    held = Held(tmp_path)
    for _ in range(20):
        assert not held.hold.let_go(held.partial(), changed=False)
    held.loop.overran = True
    noticed = [held.hold.let_go(held.partial(backwards=2), changed=False) for _ in range(CHANGED_STEPS)]
    assert noticed == [False] * (CHANGED_STEPS - 1) + [True]
    assert held.loop.natural
    assert held.handle.epoch.natural


def test_other_work_under_a_change_means_nothing(tmp_path: Path) -> None:
    """Nor does a single step of it, nor the same work: the hold stays."""
    held = Held(tmp_path)
    for _ in range(20):
        held.hold.let_go(held.partial(), changed=False)
    held.loop.overran = True
    for _ in range(10):
        assert not held.hold.let_go(held.partial(backwards=2), changed=True)
        assert not held.hold.let_go(held.partial(backwards=2), changed=False)
        assert not held.hold.let_go(held.partial(), changed=False)
    assert not held.loop.natural
