"""The gate: decisions from simulated ratios, exact counts, worktrees that are always removed, a real repository end to end."""

from __future__ import annotations

import json
import math
import random
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest
from conftest import QUICK_START, perfdoc

from perfdoc.capture.records import Counts
from perfdoc.compare.gate import Check, Verdict, count_checks, decide
from perfdoc.compare.paired_runs import WORTH_A_START, first_end
from perfdoc.compare.ratio import Ratio, load_taken_out, ratio_of
from perfdoc.compare.worktrees import Worktrees, editable_projects, python_path
from perfdoc.core.errors import PerfdocError
from perfdoc.report import junit


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.email=a@example.org", "-c", "user.name=a", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout


def commit(folder: Path, message: str = "a change", **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


@pytest.fixture
def repository(tmp_path):
    """An empty git repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


# -- statistics


def alternated(rng: random.Random, truth: float, rounds: tuple[int, ...], noise: float, between: float,
               disturbed: float) -> list[list[float]]:
    """Log ratios of rounds in pairs of processes; in a share of the rounds others use the machine under one side."""
    found = []
    for count in rounds:
        own = math.log(truth) + rng.gauss(0, between)
        found.append([
            own + rng.gauss(0, noise) + (rng.uniform(-0.7, 0.7) if rng.random() < disturbed else 0.0) for _ in range(count)
        ])
    return found


@pytest.mark.parametrize(("noise", "between", "disturbed"), [
    (0.02, 0.005, 0.1), (0.05, 0.01, 0.0), (0.03, 0.01, 0.5), (0.1, 0.02, 0.2)])
def test_the_interval_holds_the_true_ratio(noise, between, disturbed):
    """Of 400 simulated alternations with stalls, the 95% interval holds the truth in at least 93%."""
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        low, high = ratio_of(alternated(rng, 1.1, (24, 12, 12), noise, between, disturbed)).bounds()
        held += low <= 1.1 <= high
    assert held >= 372


@pytest.mark.parametrize(("truth", "wrong", "right", "least"), [
    (1.0, "regression", "fine", 0.9), (1.1, "fine", "regression", 0.6), (1.2, "fine", "regression", 0.95)])
@pytest.mark.parametrize("disturbed", [0.0, 0.4])
def test_decisions_while_peeking(truth, wrong, right, least, disturbed):
    """With a look after every dozen rounds of the second pair, wrong decisions stay below 1%, right ones are the rule."""
    rng = random.Random(2)
    decisions = []
    for _ in range(300):
        first, second = alternated(rng, truth, (36, 36), 0.03, 0.01, disturbed)
        seen = [decide(ratio_of([first, second[:n]]), 0.05) for n in (12, 24, 36)]
        decisions.append(next((d for d in seen if d != "undecided"), "undecided"))
    assert decisions.count(wrong) <= 3
    assert decisions.count(right) >= least * 300


def test_what_others_load_explains_is_taken_out():
    """Others use up to a core under one side of some rounds: with that known the ratio is known far better, and is right."""
    rng = random.Random(3)
    held, narrower = 0, []
    for _ in range(200):
        rounds = []
        for count in (36, 24):
            own = math.log(1.1) + rng.gauss(0, 0.01)
            loads = [rng.uniform(-1, 1) if rng.random() < 0.6 else 0.0 for _ in range(count)]
            rounds.append([(own + 0.35 * load + rng.gauss(0, 0.03), load + rng.gauss(0, 0.03)) for load in loads])
        low, high = ratio_of(load_taken_out(rounds)).bounds()
        raw = ratio_of([[y for y, _ in pair] for pair in rounds]).bounds()
        held += low <= 1.1 <= high
        narrower.append((raw[1] - raw[0]) / (high - low))
    assert held >= 186
    assert sorted(narrower)[100] > 1.5


def test_rounds_without_a_load_stay_as_they_are():
    """On a machine of one's own nothing is taken out; and a load that seems to make things faster is not believed."""
    quiet = [[(0.1 + 0.01 * (n % 3), 0.0) for n in range(20)]]
    assert load_taken_out(quiet) == [[y for y, _ in quiet[0]]]
    odd = [[(0.1 - 0.2 * x, x) for x in (-0.5, 0.0, 0.5, 1.0, -1.0, 0.7, 0.2)]]
    assert load_taken_out(odd) == [[y for y, _ in odd[0]]]


def test_a_ratio_between_is_undecided():
    """A step that is as slow as is allowed is neither passed nor refused."""
    assert decide(Ratio(math.log(1.05), 0.01, 6.0, 3, 18), 0.05) == "undecided"


# -- counts


def test_one_sync_more_is_a_regression_wherever_it_moved():
    """Counts are compared by file and call: a line that moved is no new sync, another one is."""
    base = Counts([("train.py:10", ".item()", 1)], [], 4096, None, [])
    moved = Counts([("train.py:12", ".item()", 1)], [], 4096, None, [])
    more = Counts([("train.py:10", ".item()", 1), ("train.py:14", ".tolist()", 2)], [], 8192, None, [])
    assert {c.decision for c in count_checks(base, moved)} == {"fine"}
    found = {c.name: c for c in count_checks(base, more)}
    assert found["host-device syncs"].decision == "regression"
    assert ".tolist() in train.py (+2)" in found["host-device syncs"].said
    assert found["bytes given to the model"].decision == "regression"
    assert "graph breaks" not in found


def test_the_worst_check_decides_and_junit_says_it():
    """One regression among fine checks: exit code 1, and JUnit XML with one failure and one skipped test."""
    verdict = Verdict((Check("a", "fine", "well"), Check("b", "undecided", "who knows"), Check("c", "regression", "slower")))
    assert verdict.exit_code == 1
    suite = ET.fromstring(junit.render(verdict, 3.0))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert suite.find("testcase[@name='c']/failure").get("message") == "slower"
    assert Verdict((Check("a", "fine", ""), Check("b", "undecided", ""))).exit_code == 3


# -- worktrees


def test_data_in_no_commit_is_linked_and_all_is_removed(repository, tmp_path):
    """Untracked data and ignored folders are there in the worktree; afterwards git knows of no worktree any more."""
    (repository / ".gitignore").write_text("data/\n*.pyc\n")
    commit(repository, train="import pkg")
    (repository / "data").mkdir()
    (repository / "data" / "x.bin").write_text("x")
    (repository.parent / "beside").mkdir()
    (repository.parent / "beside" / "y.bin").write_text("y")
    (repository / "settings.yaml").write_text("lr: 1")
    (repository / ".venv").mkdir()
    (repository / ".venv" / "pyvenv.cfg").write_text("")

    def failing() -> None:
        with Worktrees(tmp_path / "trees", repository) as trees:
            tree = trees.add("HEAD", "base")
            assert (tree / "train.py").read_text() == "import pkg"
            assert (tree / "data" / "x.bin").read_text() == "x"
            assert (tree / "settings.yaml").read_text() == "lr: 1"
            assert not (tree / ".venv").exists()
            assert (tree / ".." / "beside" / "y.bin").read_text() == "y"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert list((tmp_path / "trees").iterdir()) == []
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "data" / "x.bin").exists()


def test_submodules_are_checked_out_at_the_commit_of_the_revision(repository, tmp_path):
    """Each revision gets the submodule as it was then; one that is not there is named."""
    module = tmp_path / "module"
    module.mkdir()
    git(module, "init", "-q")
    commit(module, lib="V = 1")
    git(repository, "submodule", "add", "-q", str(module), "lib")
    commit(repository, "with a submodule", train="import lib.lib")
    commit(module, lib="V = 2")
    git(repository / "lib", "pull", "-q")
    commit(repository, "newer submodule")
    with Worktrees(tmp_path / "trees", repository) as trees:
        assert (trees.add("HEAD~1", "base") / "lib" / "lib.py").read_text() == "V = 1"
        assert (trees.add("HEAD", "head") / "lib" / "lib.py").read_text() == "V = 2"
    assert len(git(repository / "lib", "worktree", "list").splitlines()) == 1
    git(repository, "submodule", "deinit", "-f", "lib")
    with Worktrees(tmp_path / "more", repository) as trees, pytest.raises(PerfdocError, match="lib is not checked out"):
        trees.add("HEAD", "head")
    assert len(git(repository, "worktree", "list").splitlines()) == 1


# -- the command

LOADER = "num_workers=1, persistent_workers=True"
SCRIPT = """
import time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)


class Slow(Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        time.sleep(0.004)
        return torch.randn(64)


model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
total = 0.0
for x in DataLoader(Slow(), batch_size=8, LOADER):
    loss = model(x).pow(2).mean()
    for _ in range(20):
        loss = loss + model(x).mean() * 0
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    # SYNC
"""


@pytest.mark.parametrize(("budget", "start", "first"), [(90, 6, 45), (50, 13, 21.4), (30, 13, 30), (60, 0.1, 30)])
def test_the_first_pair_of_processes_leaves_room_for_another(budget, start, first):
    """Half of the time, less where starting takes long, all of it where two pairs do not fit; no time is left unused."""
    assert first_end(100.0, 100.0 + budget, start) - 100 == pytest.approx(first)
    if first < budget:
        assert budget - first > WORTH_A_START * start


@pytest.mark.alone
def test_a_sync_more_and_workers_less_are_stopped(repository):
    """Two commits, the second adds a sync to every step and drops the workers: time and count are refused, and named."""
    commit(repository, train=SCRIPT.replace("LOADER", LOADER))
    commit(repository, train=SCRIPT.replace("LOADER", "num_workers=0").replace("# SYNC", "total += loss.item()"))
    ran = perfdoc("gate", "--base", "HEAD~1", "--budget", "40", "--json", "--junit", "gate.xml", "--", "python", "train.py",
                  cwd=repository, PYTHONPATH=QUICK_START)
    assert ran.code == 1, ran.out + ran.err
    found = json.loads(ran.out)
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["step time"]["decision"] == "regression"
    assert found["ratio"]["low"] > 1.05
    assert checks["host-device syncs"]["decision"] == "regression"
    assert ".item() in train.py (+1)" in checks["host-device syncs"]["said"]
    assert checks["bytes given to the model"]["decision"] == "fine"
    assert ET.parse(repository / "gate.xml").getroot().get("failures") == "2"
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == "?? gate.xml\n"
    assert not [p for p in psutil.process_iter() if "train.py" in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("--base", "nowhere", "--", "python", "train.py"), 2, "no such revision: nowhere"),
    (("--base", "HEAD"), 2, "say what to run"),
    (("base.json", "head.json"), 2, "two captures that exist"),
    (("--base", "HEAD", "--", "no-such-program"), 2, "no such command: no-such-program"),
    (("--base", "HEAD", "--", "python", "missing.py"), 4, "missing.py does not exist in HEAD"),
    (("--base", "HEAD", "--", "python", "broken.py"), 4, "ModuleNotFoundError: No module named 'nothing_like_it'"),
    (("--base", "HEAD", "--", "python", "short.py"), 4, "ended before its loop was known"),
    (("--base", "HEAD", "--wait", "6", "--", "python", "waiting.py"), 4, "no training steps came for 6 s"),
], ids=lambda value: value[-1] if isinstance(value, tuple) else "")
def test_what_cannot_be_gated_is_said_in_a_line(arguments, code, said, repository):
    """Wrong revisions, commands and scripts: a clear line, the exit code, and no worktree left behind."""
    commit(
        repository, train="pass", broken="import nothing_like_it", short="import torch; print('done')",
        waiting="import torch, time; time.sleep(600)",
    )
    ran = perfdoc("gate", *arguments, cwd=repository)
    assert ran.code == code
    assert said in ran.err
    assert "perfdoc/cli.py" not in ran.err
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_outside_of_a_checkout_there_is_nothing_to_compare(tmp_path):
    """No git: said, with what else can be compared."""
    ran = perfdoc("gate", "--base", "HEAD", "--", "python", "train.py", cwd=tmp_path)
    assert ran.code == 2
    assert "this is no git checkout" in ran.err


def test_what_a_killed_gate_left_is_removed_by_the_next(repository, tmp_path):
    """A process that was killed could not remove its worktrees: the next one does."""
    commit(repository, train="pass")
    left = tmp_path / "gates" / "old"
    trees = Worktrees(left, repository).__enter__()
    tree = trees.add("HEAD", "base")
    gone = subprocess.Popen(["true"])
    gone.wait()
    (left / "pid").write_text(f"{socket.gethostname()} {gone.pid}")
    with Worktrees(tmp_path / "gates" / "new", repository):
        assert not tree.exists()
        assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_editable_installs_of_the_checkout_are_found(repository, tmp_path, monkeypatch):
    """The environment imports the project from the checkout: its folder in the worktree comes first; other projects stay."""
    (repository / "tool" / "src").mkdir(parents=True)
    for name, where in (("tool", repository / "tool"), ("elsewhere", tmp_path)):
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (info / "direct_url.json").write_text(json.dumps({"url": where.as_uri(), "dir_info": {"editable": True}}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert editable_projects(sys.executable, repository) == [Path("tool")]
    tree = tmp_path / "tree"
    (tree / "tool" / "src").mkdir(parents=True)
    (tree / "lib").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{repository / 'lib'}:/somewhere/else:lib")
    (repository / "lib").mkdir()
    assert python_path(tree, [Path("tool")], repository) == [str(tree / "tool" / "src"), str(tree / "tool"), str(tree / "lib")]
