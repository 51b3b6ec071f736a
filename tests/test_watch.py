"""``perfdoc watch``: the whole run is looked at, and it is the user's own run: its files, its end, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ACTIVATED, SHARING, left_behind, perfdoc

SCRIPT = """
import sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset

def slow():
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
data = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
steps = 0
try:
    for epoch in range(EPOCHS):
        for x, y in DataLoader(data, batch_size=4):
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            slow()
            steps += 1
        print("epoch", epoch, flush=True)
except KeyboardInterrupt:
    time.sleep(1.5)  # longer than a scan lets a script have after Ctrl-C
    open("saved-late.txt", "w").write(str(steps))
    raise
torch.save(model.state_dict(), "model.pt")
open("steps.txt", "w").write(str(steps))
CODE
"""


def script(folder: Path, epochs: int, code: str = "") -> None:
    (folder / "train.py").write_text(SCRIPT.replace("EPOCHS", str(epochs)).replace("CODE", code))


def test_a_run_is_watched_to_its_end(tmp_path: Path) -> None:
    """The script trains all of its epochs, its files are where it wrote them, nothing was tried; the line is named."""
    script(tmp_path, 20)
    watched = perfdoc("watch", "--json", "train.py", cwd=tmp_path)
    assert watched.code == 0, watched.err
    assert (tmp_path / "steps.txt").read_text() == str(20 * 16)
    assert (tmp_path / "model.pt").exists()
    printed, _, found = watched.out.partition("{")
    assert "epoch 19" in printed
    report = json.loads("{" + found)
    assert report["run"]["budget"] is None
    assert report["arms"] == []
    line = next(row for row in report["lines"] if row["function"] == "slow")
    assert (line["kind"], line["where"].split(":")[0]) == ("code", "train.py")
    assert line["share"] > 0.3
    assert 0 <= report["outside_steps"] < 0.5
    assert left_behind(watched.run_folder) == []


def test_the_scripts_own_exit_code_is_kept(tmp_path: Path) -> None:
    """A script that ends with an error ends so, with its own code, and what was seen is told."""
    script(tmp_path, 4, "sys.exit(3)")
    watched = perfdoc("watch", "train.py", cwd=tmp_path)
    assert watched.code == 3
    assert "perfdoc watch train.py" in watched.out
    assert (tmp_path / "steps.txt").exists()


def test_ctrl_c_lets_the_script_end_as_it_would(tmp_path: Path) -> None:
    """A script that saves at Ctrl-C gets the time for it; the report is that of what was seen by then."""
    script(tmp_path, 10_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "perfdoc", "watch", "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, **ACTIVATED, **SHARING},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not any(
            '"e": "lines"' in file.read_text() for file in tmp_path.glob(".perfdoc/runs/*/events-*.jsonl")):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert int((tmp_path / "saved-late.txt").read_text()) > 10
    assert "slow" in out
    assert "report.html" in out
