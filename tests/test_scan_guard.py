"""The user's work is sacred: a scan leaves their files, their git status and their process as they were."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import SCRIPTS, Scanned, perfdoc

Scan = Callable[..., Scanned]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
                          cwd=folder, capture_output=True, text=True, check=True).stdout


def test_checkpoints_and_logs_are_not_written(tmp_path: Path) -> None:
    """An existing checkpoint and log keep their content, new ones go to the run's folder, git status stays as it was."""
    shutil.copy(SCRIPTS / "plain.py", tmp_path / "train.py")
    (tmp_path / "model.pt").write_bytes(b"weeks of training")
    (tmp_path / "log.csv").write_text("0,1.5\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "train.py", "log.csv")
    git(tmp_path, "commit", "-q", "-m", "x")
    before = git(tmp_path, "status", "--porcelain")
    scanned = perfdoc("scan", "--json", "--budget", "5", "--clock-only", "train.py", "--epochs", "40", cwd=tmp_path)
    assert scanned.code == 0, scanned.err
    assert (tmp_path / "model.pt").read_bytes() == b"weeks of training"
    assert (tmp_path / "log.csv").read_text() == "0,1.5\n"
    assert git(tmp_path, "status", "--porcelain") == before
    redirected = {Path(entry["path"]).name: entry["to"] for entry in scanned.capture["guard"]["redirected"]}
    assert set(redirected) == {"model.pt", "log.csv"}
    copied = (scanned.run_folder / redirected["log.csv"]).read_text().splitlines()
    assert copied[0] == "0,1.5"
    assert len(copied) > 1, "the script appended to its copy"


def test_files_of_the_set_up_lie_in_the_run(tmp_path: Path) -> None:
    """A log opened before training is in the run's folder; git status shows nothing of it, during the scan or after."""
    (tmp_path / "train.py").write_text(
        'log = open("run.log", "w")\nlog.write("start\\n")\nprint(open("run.log").name)\n'
        + (SCRIPTS / "by_next.py").read_text()
    )
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    scanned = perfdoc("scan", "--json", "--budget", "5", "train.py", cwd=tmp_path)
    assert scanned.code == 0, scanned.err
    assert git(tmp_path, "status", "--porcelain") == ""
    assert not (tmp_path / "run.log").exists()
    assert [Path(entry["path"]).name for entry in scanned.capture["guard"]["redirected"]] == ["run.log"]
    assert scanned.capture["guard"]["moved"] == scanned.capture["guard"]["left"] == []


def test_process_state_is_as_without_perfdoc(scan: Scan) -> None:
    """argv, working directory, ``__main__``, the module search path and a script's own sitecustomize are untouched."""
    text = """
import os, sys
assert sys.argv == ["train.py", "--name", "täst"], sys.argv
assert __name__ == "__main__" and sys.modules["__main__"].__file__.endswith("train.py")
assert not any("perfdoc" in path and "bootstrap" in path for path in sys.path), sys.path
assert os.getcwd() == os.path.dirname(os.path.abspath(__file__))
assert sys.stdin is not None and __doc__ is None and __builtins__ is not None
import builtins
assert builtins.SITE == "user's own"
import torch
from torch import nn
os.chdir("/")
model = nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
"""
    scanned = _with_sitecustomize(scan, text)
    assert scanned.code == 0, scanned.err + scanned.out
    assert scanned.found["loop"]["step"]["optimizer_calls"] == 1


def _with_sitecustomize(scan: Scan, text: str) -> Scanned:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text('import builtins\nbuiltins.SITE = "user\'s own"\n')
        return scan("train.py", "--name", "täst", text=text, PYTHONPATH=folder)


def test_path_with_spaces_and_umlauts(tmp_path: Path) -> None:
    """A project in a folder with spaces and non-ASCII letters is scanned like any other."""
    folder = tmp_path / "mein Projekt ü"
    folder.mkdir()
    shutil.copy(SCRIPTS / "by_next.py", folder / "träin 1.py")
    scanned = perfdoc("scan", "--json", "--budget", "5", "träin 1.py", cwd=folder)
    assert scanned.code == 0, scanned.err
    assert scanned.found["loop"]["loaders"][0]["site"] == "träin 1.py:11"
