"""Scripts that a scan once broke, blamed or never came to the end of: each is scanned whole, and nobody is blamed wrongly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import ACTIVATED, SCRIPTS, SHARING, Scanned, left_behind

LIMIT = 100.0
"""Maximum seconds of a whole scan of 6 s: what takes longer hangs."""
FEWEST_CONTROL = 3
"""Minimum control blocks: fewer are no measurement."""


@dataclass(frozen=True)
class Kind:
    """One script, what is tried in it, and what must come of it."""

    script: str
    tried: str
    """Arm that must have blocks."""
    only: str = ""
    """Treatments that are tried; that of ``tried`` where left out."""
    budget: float = 6
    may_fail: str = ""
    """Words that must be in the reason where ``tried`` has no blocks; empty where it must have some."""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> str:
        return self.only or self.tried.split("=")[0]


def scan(folder: Path, script: str, *options: str, budget: float, environment: dict[str, str] | None = None) -> Scanned:
    """Scan a copy of a script from tests/scripts/wild; a scan that hangs is ended, with all that it started, and fails."""
    shutil.copy(SCRIPTS / "wild" / script, folder / script)
    process = subprocess.Popen(
        [sys.executable, "-m", "perfdoc", "scan", "--budget", str(budget), *options, script], cwd=folder, text=True,
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
    """Blocks of each arm, those of stacks counted for each of their parts."""
    found: dict[str, int] = {}
    for block in capture["blocks"]:
        for arm in {block["arm"], *block["arm"].split("+")}:
            found[arm] = found.get(arm, 0) + 1
    return found


CARRIED = [
    Kind("carried_hidden_state.py", "autocast=bf16", may_fail="LSTM"),
    Kind("moving_average.py", "autocast=bf16"),
    Kind("replay_buffer.py", "autocast=bf16"),
    Kind("cached_mask.py", "batch_size=x2"),
    Kind("state_of_the_batch.py", "batch_size=x2", only="batch_size,optimizer_implementation", may_fail="hidden"),
    Kind("feature_maps_kept.py", "channels_last=on", may_fail="view"),
]


COUNTED = [
    Kind("last_group_is_shorter.py", "optimizer_implementation=foreach"),
    Kind("validates_at_last_batch.py", "optimizer_implementation=foreach"),
    Kind("progress_bar.py", "optimizer_implementation=foreach"),
    Kind("schedule_table.py", "optimizer_implementation=foreach"),
    Kind("one_cycle.py", "optimizer_implementation=foreach"),
    Kind("weight_by_progress.py", "optimizer_implementation=foreach"),
]
SHORT = [
    Kind("max_iters.py", "optimizer_implementation=foreach"),
    Kind("range_of_len.py", "optimizer_implementation=foreach"),
]
SLOW_OR_LOCKED = [
    Kind("slow_first_sample.py", "dataloader_workers=2", budget=15),
    Kind("locked_data.py", "dataloader_workers=0", budget=10),
]
OTHERS = [
    Kind("diverges.py", "optimizer_implementation=foreach"),
    Kind("tries_again.py", "autocast=bf16", only="autocast,optimizer_implementation", may_fail="is not torch.float32"),
    Kind("wants_numpy.py", "autocast=bf16", only="autocast,optimizer_implementation", may_fail="BFloat16"),
]


@pytest.mark.parametrize("kind", [*CARRIED, *COUNTED, *SHORT, *SLOW_OR_LOCKED, *OTHERS], ids=lambda kind: kind.script[:-3])
def test_scripts_that_do_not_fail_alone_do_not_fail_in_a_scan(tmp_path: Path, kind: Kind) -> None:
    """State carried in the script's own variables, arithmetic with the number of batches, very short runs, slow starts, locks,
    NaN, retries: the scan ends by itself and complete, the change is judged or named with its true reason, nothing stays."""
    scanned = scan(tmp_path, kind.script, "--json", "--only", kind.names, *kind.arguments, budget=kind.budget,
                   environment=kind.environment)
    assert "by itself" not in scanned.out + scanned.err
    assert scanned.code == 0, scanned.err
    capture = scanned.capture
    assert capture["run"]["outcome"] == "complete", capture["run"]
    assert capture["failure"] is None or kind.may_fail, capture["failure"]
    blocks, failed = counts(capture), capture["experiment"]["failed"]
    assert blocks.get("control", 0) >= FEWEST_CONTROL, blocks
    others = {arm: why for arm, why in failed.items() if not (kind.may_fail and kind.may_fail in why)}
    assert others == {}, "a change is blamed for what it did not do"
    assert blocks.get(kind.tried, 0) >= 1 or kind.tried in failed, blocks
    assert left_behind(scanned.run_folder) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".perfdoc", kind.script]


def test_an_epoch_that_is_over_at_once_is_said_with_the_option_that_would_help(tmp_path: Path) -> None:
    """A run of a third of a second: no failure, nobody is blamed, and the script's own --epochs is named."""
    scanned = scan(tmp_path, "one_short_epoch.py", "--only", "optimizer_implementation", budget=6)
    assert scanned.code == 0, scanned.err
    assert "by itself" not in scanned.out + scanned.err
    if not scanned.capture["blocks"]:
        assert "--epochs" in scanned.out, scanned.out
    assert left_behind(scanned.run_folder) == []


def test_a_bug_of_the_script_is_blamed_on_the_script(tmp_path: Path) -> None:
    """A failure that comes without any treatment too: the script's own, with its own words, exit code and traceback, and what
    was measured before is kept. No treatment is blamed for it, whatever was on."""
    scanned = scan(tmp_path, "fails_at_step_300.py", "--only", "autocast,optimizer_implementation", budget=8)
    assert scanned.code == 1, scanned.out
    capture = scanned.capture
    assert capture["run"]["outcome"] == "failed"
    assert "the script failed by itself: KeyError: 300" in capture["run"]["reason"]
    assert capture["experiment"]["failed"] == {}
    assert "names[step]" in scanned.err
    written = sum(1 for file in scanned.run_folder.glob("events-*.jsonl") for line in file.read_text().splitlines()
                  if json.loads(line)["e"] == "block")
    assert len(capture["blocks"]) == written
    assert left_behind(scanned.run_folder) == []
