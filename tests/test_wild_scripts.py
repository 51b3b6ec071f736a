"""Scripts that a scan once broke, blamed or never came to the end of: each is scanned whole, and nobody is blamed wrongly."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import ACTIVATED, SCRIPTS, SHARING, Scanned, left_behind, perfdoc

from perfdoc.launch.launches import LEAST_LEFT

LIMIT = 100.0
"""Maximum seconds of a whole scan of 6 s: what takes longer hangs."""


@dataclass(frozen=True)
class Kind:
    """One script, what is tried in it, and what must come of it."""

    script: str
    tried: str
    """Treatment that must have blocks at one of its levels at least."""
    beside: str = ""
    """Treatments that are tried besides."""
    budget: float = 6
    may_fail: str = ""
    """Words of the only reason for which ``tried`` may be given up; empty where it must not be."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def only(self) -> str:
        return ",".join(filter(None, (self.tried, self.beside)))


def scan(
    folder: Path, script: str, *arguments: str, budget: float, options: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Scanned:
    """Scan a copy of a script from tests/scripts/wild; a scan that hangs is ended, with all that it started, and fails."""
    shutil.copy(SCRIPTS / "wild" / script, folder / script)
    process = subprocess.Popen(
        [sys.executable, "-m", "perfdoc", "scan", "--budget", str(budget), *options, script, *arguments], cwd=folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, **ACTIVATED, **SHARING, **(environment or {})},
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the scan of {script} did not end within {LIMIT:.0f} s\n{err[-2000:]}")
    return Scanned(process.returncode, out, err, folder)


def counts(capture: dict[str, Any]) -> dict[str, int]:
    """Blocks of the control and of each treatment; those of stacks count for each of their parts."""
    found: dict[str, int] = {}
    for block in capture["blocks"]:
        for slug in {part.split("=")[0] for part in block["arm"].split("+")}:
            found[slug] = found.get(slug, 0) + 1
    return found


INTERPRETER = 1.0
"""Seconds from a launch to perfdoc's first event, at most: Python itself starts."""


def left_over(scanned: Scanned) -> float:
    """Seconds of the budget that another launch of the script could still have used: what is left, less a start and a round.

    Starts are counted, but the first; the time is that of events, from the first optimizer step on.
    """
    steps = {event["lap"]: event["t"] for event in scanned.events("seen") if event["what"] == "optimizer step"}
    ends: dict[int, float] = {}
    for kind in ("seen", "block", "switch", "outcome", "end"):
        for event in scanned.events(kind):
            ends[event["lap"]] = max(ends.get(event["lap"], 0.0), event["t"])
    # Of the first launch the start begins a moment before perfdoc is in the process.
    entered = min(event["t"] for event in scanned.events("entered") if event["lap"] == 0)
    longest_start = max(steps[lap] - (ends[lap - 1] if lap else entered - INTERPRETER) for lap in steps)
    budget = float(scanned.capture["run"]["budget"])
    return budget - (ends[max(ends)] - steps[0]) - longest_start - LEAST_LEFT


CARRIED = [
    Kind("carried_hidden_state.py", "autocast", may_fail="LSTM"),
    Kind("moving_average.py", "autocast", may_fail="dtype"),
    Kind("replay_buffer.py", "autocast", may_fail="dtype"),
    Kind("picture_pool.py", "autocast", beside="optimizer_implementation", budget=10),
    Kind("cached_mask.py", "batch_size", budget=12, may_fail="size of tensor"),
    Kind("state_of_the_batch.py", "batch_size", budget=12, may_fail="hidden size"),
    Kind("feature_maps_kept.py", "channels_last", may_fail="view"),
]
"""What the last change left in the script's own variables."""
COUNTED = [
    Kind("last_group_is_shorter.py", "optimizer_implementation"),
    Kind("validates_at_last_batch.py", "optimizer_implementation"),
    Kind("progress_bar.py", "optimizer_implementation"),
    Kind("schedule_table.py", "optimizer_implementation"),
    Kind("weight_by_progress.py", "optimizer_implementation"),
    Kind("evaluates_on_train.py", "optimizer_implementation"),
    Kind("saves_at_epoch_end.py", "activation_checkpointing", budget=10),
]
"""Arithmetic with the number of batches or steps, which sees a loop that is held."""
SHORT = [
    Kind("max_iters.py", "optimizer_implementation", budget=20),
    Kind("range_of_len.py", "optimizer_implementation", budget=20),
]
"""Over long before the budget is."""
SLOW_OR_LOCKED = [
    Kind("slow_first_sample.py", "dataloader_workers", budget=10, environment={"ARCHIVE_SECONDS": "2"}),
    Kind("locked_data.py", "dataloader_workers", budget=10),
]
OTHERS = [
    Kind("optimizer_made_anew.py", "autocast", budget=10),
    Kind("folds.py", "optimizer_implementation", budget=10),
    Kind("tries_again.py", "autocast", beside="optimizer_implementation", may_fail="no step came of"),
]


@pytest.mark.parametrize("kind", [*CARRIED, *COUNTED, *SHORT, *SLOW_OR_LOCKED, *OTHERS], ids=lambda kind: kind.script[:-3])
def test_scripts_that_do_not_fail_alone_do_not_fail_in_a_scan(tmp_path: Path, kind: Kind) -> None:
    """State carried in the script's own variables, arithmetic with the number of batches, very short runs, slow starts, locks,
    NaN, retries: the scan ends by itself and complete, the change is judged or named with its true reason, nothing stays."""
    scanned = scan(tmp_path, kind.script, options=("--json", "--only", kind.only), budget=kind.budget,
                   environment=kind.environment)
    assert "failed by itself" not in scanned.out + scanned.err
    assert scanned.code == 0, scanned.err
    capture = scanned.capture
    assert capture["run"]["outcome"] == "complete", capture["run"]
    assert "so the budget was over" not in capture["run"]["reason"], "none of these steps is slow"
    blocks, failed = counts(capture), capture["experiment"]["failed"]
    assert "control" in blocks, blocks
    others = {arm: why for arm, why in failed.items() if not (kind.may_fail and kind.may_fail in why)}
    assert others == {}, "a change is blamed for what it did not do"
    assert kind.tried in blocks or any(kind.tried in arm for arm in failed), blocks
    assert left_behind(scanned.run_folder) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".perfdoc", kind.script]
    if kind in SHORT:
        settled = any(event["reason"] == "settled" for event in scanned.events("outcome"))
        assert settled or left_over(scanned) <= 0, "started again while the budget lasts"


def test_an_epoch_that_is_over_at_once_is_said_with_the_option_that_would_help(tmp_path: Path) -> None:
    """A run of a third of a second: no failure, nobody is blamed, and the script's own --epochs is named."""
    scanned = scan(tmp_path, "one_short_epoch.py", options=("--only", "optimizer_implementation"), budget=6)
    assert scanned.code == 0, scanned.err
    assert "failed by itself" not in scanned.out + scanned.err
    if not scanned.capture["blocks"]:
        assert "--epochs" in scanned.out, scanned.out
    assert left_behind(scanned.run_folder) == []


@pytest.mark.parametrize("steps", [300, 1200])
def test_a_bug_of_the_script_is_blamed_on_the_script(tmp_path: Path, steps: int) -> None:
    """A failure that comes without any treatment too: the script's own, with its own words, exit code and traceback, and what
    was measured before is kept. No treatment is blamed for it, whatever was on."""
    tried = "autocast,cpu_threads,matmul_precision,optimizer_implementation"
    scanned = scan(tmp_path, "fails_at_step.py", str(steps), options=("--only", tried), budget=10)
    assert scanned.code == 1, scanned.out
    capture = scanned.capture
    assert capture["run"]["outcome"] == "failed"
    assert f"the script failed by itself: KeyError: {steps}" in capture["run"]["reason"]
    assert capture["experiment"]["failed"] == {}
    assert "names[step]" in scanned.err
    assert len(capture["blocks"]) == len(scanned.events("block"))
    assert left_behind(scanned.run_folder) == []


def test_a_loop_without_any_pattern_ends_with_the_budget(tmp_path: Path) -> None:
    """Every step trains another model with another optimizer: what a step is cannot be made out, and that is said."""
    (tmp_path / "train.py").write_text("""
import torch
while True:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).mean().backward()
    optimizer.step()
""")
    scanned = perfdoc("scan", "--budget", "5", "train.py", cwd=tmp_path)
    assert scanned.code == 3, scanned.err
    assert "what one step of its loop is could not be made out within the budget" in scanned.err
    assert left_behind(scanned.run_folder) == []
