"""Several ranks switch at one step: what rank 0 announces is done by the others at the same optimizer call."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_loop import Allocator, Change, Ended, PlainLoop, Scripted

from perfdoc.core.treatment import config_id
from perfdoc.inject.experiment.rank_sync import LOOKAHEAD, Announcements, RankFollower
from perfdoc.inject.experiment.requests import BlockRequest


class Rank(PlainLoop):
    """A rank that follows."""

    def __init__(self, folder: Path, *changes: Change) -> None:
        super().__init__(folder, changes, ranks=2)
        self.held_at: list[int] = []
        self.follower = RankFollower(self.context, self.treatments, Allocator(), self.hold)  # type: ignore[arg-type]

    def hold(self) -> None:
        self.state.holding = True
        self.held_at.append(self.state.optimizer_calls)

    def call(self) -> str:
        """One optimizer call; the arm that is on after it."""
        self.state.optimizer_calls += 1
        self.follower.on_call()
        return config_id(self.follower.switcher.config)


def test_a_whole_experiment_switches_at_the_same_calls(tmp_path: Path) -> None:
    """Two ranks, one of them always a call behind: after each call both are under the same settings, and both end at one."""
    leader = PlainLoop(tmp_path, [Change("fast", 0.5)], ranks=2)
    follower = Rank(tmp_path, Change("fast", 0.5))
    requests = [BlockRequest({}, "control", "screen"), BlockRequest({"fast": "on"}, "fast=on", "screen")]
    led: dict[int, str] = {}
    followed: dict[int, str] = {}
    ended: dict[str, int] = {}
    leader.runner.begin(Scripted(*requests, *requests))  # type: ignore[arg-type]
    for _ in range(1000):
        if "leader" not in ended:
            try:
                leader.step()
                led[leader.state.optimizer_calls] = leader.runner.arm_id()
            except Ended:
                ended["leader"] = leader.state.optimizer_calls
        if follower.state.optimizer_calls < leader.state.optimizer_calls - 1 or "leader" in ended:
            try:
                arm = follower.call()
                followed[follower.state.optimizer_calls] = arm
            except Ended:
                ended["follower"] = follower.state.optimizer_calls
                break
    assert ended["leader"] == ended["follower"]
    assert led == followed
    assert set(led.values()) == {"control", "fast=on"}
    assert not any(change.on for loop in (leader, follower) for change in loop.treatments.values())  # type: ignore[attr-defined]
    assert follower.held_at == [1]


def test_a_rank_that_has_nothing_to_do_is_not_held(tmp_path: Path) -> None:
    """Before rank 0 announces anything its loop runs as it is."""
    follower = Rank(tmp_path, Change("fast"))
    assert {follower.call() for _ in range(10)} == {"control"}
    assert follower.held_at == []


def test_announcements_are_read_one_by_one_and_only_whole(tmp_path: Path) -> None:
    """Each is read once, in order; a line that is still being written is left until it is there."""
    said, heard = Announcements(str(tmp_path), 0), Announcements(str(tmp_path), 0)
    assert heard.read() is None
    said.announce(7, {"fast": "on"})
    said.announce(9, {})
    said.announce(12, None)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(whole[:-2])
    assert [heard.read() for _ in range(3)] == [(7, {"fast": "on"}), (9, {}), None]
    file.write_text(whole)
    assert heard.read() == (12, None)
    assert heard.read() is None
    assert Announcements(str(tmp_path), 1).read() is None, "of another launch"


def test_what_a_rank_cannot_undo_ends_all_of_them(tmp_path: Path) -> None:
    """A rank that ended alone would leave the others waiting for its gradients: it announces the end, for a later call."""
    follower = Rank(tmp_path, Change("stuck", fails="restore"))
    said = Announcements(str(tmp_path), 0)
    said.announce(1, {"stuck": "on"})
    assert follower.call() == "stuck=on"
    said.announce(2, {})
    follower.call()
    assert follower.recorder.all("restore_failed")
    for _ in range(LOOKAHEAD - 1):
        follower.call()
    with pytest.raises(Ended, match="rank 0 ended"):
        follower.call()
