"""Bad input and failing scripts: a clear line, the right exit code, nothing left behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PACE, SCRIPTS, Scanned, left_behind, perfdoc

Scan = Callable[..., Scanned]

LOOP = """
import os, sys, torch
from torch import nn
model = nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(STEPS):
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    if step == 5:
        AT_FIVE
"""


def loop(at_five: str = "pass", steps: int = 1000000) -> str:
    return LOOP.replace("AT_FIVE", at_five).replace("STEPS", str(steps))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "nowhere.py"], "no such script: nowhere.py"),
        (["scan"], "nothing to scan"),
        (["scan", "."], "is a folder"),
        (["scan", "--", "no-such-program"], "no such command: no-such-program"),
        (["scan", "--only", "turbo", "conftest.py"], "no treatment is called 'turbo'"),
        (["report", "nothing"], "no such run"),
        (["report"], "no runs in"),
        (["explain", "PD999"], "no rule is called"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Wrong usage gives one line that says what to do, exit code 2, and makes no run folder."""
    (tmp_path / "conftest.py").write_text("")
    ran = perfdoc(*arguments, cwd=tmp_path)
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / ".perfdoc").exists()


def test_unwritable_folder_is_said(tmp_path: Path) -> None:
    """Where .perfdoc cannot be made, the line names the place and the way out."""
    (tmp_path / ".perfdoc").write_text("a file stands in the way")
    (tmp_path / "train.py").write_text(loop())
    ran = perfdoc("scan", "train.py", cwd=tmp_path)
    assert ran.code == 2
    assert "cannot write" in ran.err
    assert "--output" in ran.err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("def broken(:\n", 1, "SyntaxError"),
        (loop('raise ValueError("step five is bad")'), 1, "ValueError: step five is bad"),
        (loop('model.forward = None; raise_in_model(model)'), 1, "NameError"),
        (loop("model(torch.randn(2, 5))"), 1, "RuntimeError"),
        (loop("sys.exit(7)"), 7, "exit code 7"),
        (loop("os._exit(9)"), 9, "exit code 9"),
        (loop("os.kill(os.getpid(), 9)"), 137, "SIGKILL"),
        ("import no_such_module_at_all\n", 1, "ModuleNotFoundError"),
        ("import torch\ntorch.ones(1).to('cuda')\n", 1, "script failed by itself"),
    ],
)
def test_the_scripts_own_failure_is_shown(scan: Scan, text: str, code: int, words: str) -> None:
    """A script that fails by itself keeps its exit code, and its own traceback is what the user reads."""
    scanned = scan("train.py", text=text, options=())
    assert scanned.code == code, scanned.err
    assert words in scanned.err
    assert "perfdoc/inject" not in scanned.err.replace("\\", "/"), "no frame of ours in the user's traceback"
    assert left_behind(scanned.run_folder) == []


def test_an_error_raised_in_perfdocs_own_code_is_not_simply_laid_to_the_script(scan: Scan) -> None:
    """The guard's file names stand in for Python's: what fails in there is told with the way to find out whose fault it is."""
    scanned = scan("train.py", text="import torch\nopen('out.txt', 'no such mode')\n", options=())
    assert scanned.code == 1
    assert "failed by itself" not in scanned.err
    assert "a call that perfdoc stands in (perfdoc/inject/guard/opening.py" in scanned.err
    assert "--no-guard would show it" in scanned.err
    assert "ValueError: invalid mode" in scanned.err


def test_three_steps_are_too_few(scan: Scan) -> None:
    """A script that ends after three steps: said, with what to do, and not a failure."""
    scanned = scan("train.py", text=loop(steps=3), options=())
    assert scanned.code == 0
    assert "ended before its loop was known" in scanned.out + scanned.err


def test_a_script_that_never_trains(scan: Scan) -> None:
    """No optimizer step within --wait: the script is ended, and what was seen of it is said."""
    scanned = scan(
        "train.py", options=("--wait", "6"),
        text="import time, torch\nmodel = torch.nn.Linear(2, 2)\nmodel(torch.ones(1, 2))\ntime.sleep(1000)\n",
    )
    assert scanned.code == 3
    assert "no optimizer step within 6 s" in scanned.err
    assert "a model was called" in scanned.err
    assert left_behind(scanned.run_folder) == []


def test_a_script_without_torch(scan: Scan) -> None:
    """A script that never imports torch gets asked whether it is the right one."""
    scanned = scan("train.py", text="print('hello')\n", options=())
    assert scanned.code == 3
    assert "torch was never imported" in scanned.err


def test_ctrl_c_reports_what_is_there(tmp_path: Path) -> None:
    """Ctrl-C in mid-scan ends the script and still shows what was measured by then."""
    (tmp_path / "train.py").write_text((SCRIPTS / "swallowing.py").read_text())
    process = subprocess.Popen([sys.executable, "-m", "perfdoc", "scan", "--budget", "100", "train.py"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               # A shell's background jobs ignore SIGINT; a person's terminal does not.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _blocks(tmp_path):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert PACE.search(out)
    assert re.search(r"\n  (forward|waiting for data|backward) +\d", out), "where the step's time goes"
    assert left_behind(next((tmp_path / ".perfdoc" / "runs").iterdir())) == []


def _blocks(folder: Path) -> bool:
    return any('"e": "block"' in file.read_text() for file in folder.glob(".perfdoc/runs/*/events-*.jsonl"))
