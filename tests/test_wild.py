"""What benchmarks/wild.py calls harm, blame and a scan: its parts, on folders and answers made here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.any_python

FILE = Path(__file__).parent.parent / "benchmarks" / "wild.py"


@pytest.fixture(scope="module")
def wild() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wild", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wild"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "old").mkdir(parents=True)
    (tmp_path / "train.py").write_text("import torch\n")
    (tmp_path / "out" / "model.pt").write_bytes(b"weights")
    (tmp_path / "last").symlink_to("out/model.pt")
    return tmp_path


def touched(wild: ModuleType, folder: Path, *change: Any) -> list[str]:
    before = wild.tree(folder)
    for make in change:
        make()
    return list(wild.changes(before, wild.tree(folder)))


def test_every_kind_of_change_in_the_folder_is_seen(wild: ModuleType, folder: Path) -> None:
    """New files and folders, bytes, modes, times, links, and what is gone: each is named, and by what happened to it."""
    model, script = folder / "out" / "model.pt", folder / "train.py"
    when = model.stat().st_mtime_ns
    assert touched(wild, folder) == []
    assert touched(wild, folder, lambda: (folder / "runs" / "one").mkdir(parents=True)) == ["new runs", "new runs/one"]
    assert touched(wild, folder, lambda: (folder / "log.txt").touch()) == ["new log.txt"]
    assert touched(wild, folder, lambda: model.write_bytes(b"WEIGHTS"), lambda: os.utime(model, ns=(when, when))) == [
        "changed out/model.pt"]
    assert touched(wild, folder, lambda: os.utime(model, ns=(when, when + 5))) == ["changed out/model.pt (time only)"]
    assert touched(wild, folder, lambda: script.chmod(0o600)) == ["changed train.py"]
    assert touched(wild, folder, lambda: (folder / "last").unlink(), lambda: (folder / "last").symlink_to("train.py")) == [
        "changed last"]
    assert touched(wild, folder, (folder / "out" / "old").rmdir) == ["gone out/old"]


def test_the_run_of_perfdoc_and_compiled_python_are_no_change(wild: ModuleType, folder: Path) -> None:
    """`.perfdoc` and `__pycache__` may appear at any depth, and with them the folder's time changes."""
    def write() -> None:
        for place in (folder / ".perfdoc" / "runs", folder / "out" / ".perfdoc", folder / "out" / "__pycache__"):
            place.mkdir(parents=True)
            (place / "file").touch()

    assert touched(wild, folder, write) == []


def ended(wild: ModuleType, found: dict[str, Any] | None, hung: bool = False, changed: tuple[str, ...] = ()) -> Any:
    out = "downloading...\n" + json.dumps(found, indent=1) if found else "Traceback"
    return wild.Ended(0, out, "", 20.0, hung, list(changed), [], [], 0)


def answered(outcome: str = "complete", reason: str = "", why: str = "") -> dict[str, Any]:
    untestable = [{"what": "autocast bf16", "why": why}] if why else []
    run = {"outcome": outcome, "reason": reason, "laps": 1}
    return {"run": run, "headline": "Nothing helps", "untestable": untestable, "arms": []}


PLAIN = {"failed": False, "said": "still training after 30 s"}


@pytest.mark.parametrize("reason", [
    "the script failed by itself: ZeroDivisionError: division by zero",
    "the script ended without an optimizer step; torch was never imported in it. Is it the right script?",
])
def test_a_script_that_runs_alone_is_wrongly_blamed(wild: ModuleType, reason: str) -> None:
    """The same words are wrong where a plain run does not fail, and right where it fails too."""
    scan = ended(wild, answered("failed", reason))
    assert wild.judge("a", scan, 15, PLAIN, 0).blamed == reason
    assert wild.judge("a", scan, 15, {"failed": True, "said": "ZeroDivisionError"}, 0).blamed == ""


def test_an_answer_that_blames_nobody(wild: ModuleType) -> None:
    """A complete scan with blocks of changes is scanned, unharmed and blames nobody; without such blocks it is not scanned."""
    row = wild.judge("a", ended(wild, answered()), 15, PLAIN, 12)
    assert (row.ended, row.scanned, row.unharmed, row.blamed) == ("complete", True, True, "")
    assert row.over_budget == 5.0
    assert not wild.judge("a", ended(wild, answered()), 15, PLAIN, 0).scanned


def test_failing_changes_that_a_person_has_to_read(wild: ModuleType) -> None:
    """A change that torch refuses is listed; one whose error is the script's arithmetic is one to read besides."""
    refused = wild.judge("a", ended(wild, answered(why="fails in this loop: RuntimeError: unsafe to autocast")), 15, PLAIN, 3)
    assert (len(refused.failed_changes), refused.to_read) == (1, [])
    held = wild.judge("a", ended(wild, answered(why="fails in this loop: ZeroDivisionError: division by zero")), 15, PLAIN, 3)
    assert held.to_read == ["autocast bf16: fails in this loop: ZeroDivisionError: division by zero"]


def test_a_script_that_fails_alone_is_none_to_scan(wild: ModuleType) -> None:
    """The totals leave it out of what was scanned, and count it for harm."""
    rows = [wild.judge(name, ended(wild, answered()), 15, plain, 12)
            for name, plain in (("trains", PLAIN), ("fails", {"failed": True, "said": "ImportError"}))]
    said = wild.totals(rows)
    assert said.startswith("1 scripts fail alone; of the others scanned 1 of 1 (100%); of all unharmed 2 of 2 (100%)")


def test_harm_is_anything_that_is_left(wild: ModuleType) -> None:
    """A changed path, and a scan that had to be killed, are harm; a crash of perfdoc is no answer."""
    assert not wild.judge("a", ended(wild, answered(), changed=("new out/args.yaml",)), 15, PLAIN, 3).unharmed
    hung = wild.judge("a", ended(wild, None, hung=True), 15, PLAIN, 0)
    assert (hung.ended, hung.unharmed) == ("hung", False)
    assert wild.judge("a", ended(wild, None), 15, PLAIN, 0).ended == "no answer"


def test_a_run_leaves_neither_files_nor_processes(wild: ModuleType, tmp_path: Path) -> None:
    """What a `run.sh` writes is told, what it leaves running is told and ended, and the original folder is as it was."""
    script = tmp_path / "script"
    script.mkdir()
    (script / "run.sh").write_text('mkdir new\nsleep 300 > /dev/null 2>&1 &\n$PERFDOC echo trained; exit 3\n')
    before = wild.tree(script)
    found = wild.run(script, Path(sys.executable), "echo scanned:", 60)
    assert found.out == "scanned: echo trained\n"
    assert (found.code, found.hung, found.changed, found.processes) == (3, False, ["new new"], ["sleep 300"])
    assert (wild.tree(script), os.listdir(tmp_path)) == (before, ["script"])


def test_a_run_without_end_is_killed(wild: ModuleType, tmp_path: Path) -> None:
    """A run that lasts longer than it may is killed with all that it started."""
    script = tmp_path / "script"
    script.mkdir()
    (script / "run.sh").write_text("sleep 301 & sleep 302\n")
    found = wild.run(script, Path(sys.executable), "", 1.0)
    assert found.hung
    assert list(wild.left_processes(tmp_path, set())) == []
