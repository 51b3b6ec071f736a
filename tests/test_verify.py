"""`perfdoc verify` and what stands behind it: two versions take turns, and nothing of them is left."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest
from conftest import QUICK_START, perfdoc
from test_patch import captured

from perfdoc.capture.verified import OriginalStep
from perfdoc.compare.paired_runs import Alternation, Side, _Runner
from perfdoc.compare.ratio import ROUNDS
from perfdoc.core.durations import seconds
from perfdoc.core.errors import PerfdocError
from perfdoc.launch.event_reader import EventReader
from perfdoc.patch import make
from perfdoc.report.verified_words import pace, page_faults

SCRIPT = """
import sys
import time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
model = nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(512, 8)), batch_size=8)
for epoch in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1000):
    for (x,) in loader:
        time.sleep(float(sys.argv[1]))
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), "last.pt")
"""


def side(name, folder, *arguments):
    return Side(name, [sys.executable, "train.py", *arguments], folder, folder, python_path=[QUICK_START])


@pytest.mark.alone
def test_two_sleeping_scripts_differ_by_what_they_sleep(tmp_path):
    """40 ms against 60 ms a step: the ratio is close to 1.5, both ran, no file of theirs was written, no process is left."""
    (tmp_path / "train.py").write_text(SCRIPT)
    one, two = side("one", tmp_path, "0.04"), side("two", tmp_path, "0.06")
    runner = Alternation(one, two, tmp_path / "work", budget=45)
    ratio = runner.run(lambda found: found.bounds()[1] / found.bounds()[0] < 1.2)
    assert 1.35 < ratio.ratio < 1.55
    low, high = ratio.bounds()
    assert low < 1.5
    assert high > 1.44  # a step does a little besides sleeping
    assert low > 1.2
    assert ratio.starts >= 2
    assert len(one.paces) == len(two.paces) == ratio.rounds
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.py", "work"]
    assert not _of(tmp_path)


@pytest.mark.alone
def test_a_block_is_not_looked_at_before_it_can_have_ended(tmp_path, monkeypatch):
    """While a side runs, perfdoc leaves all cores to it: a side that computes on every one would be slowed, and no other."""
    (tmp_path / "train.py").write_text(SCRIPT)
    looks, blocks = [], []
    news, block = EventReader.news, _Runner.block
    monkeypatch.setattr(EventReader, "news", lambda self: looks.append(len(blocks)) or news(self))
    monkeypatch.setattr(_Runner, "block", lambda self, patience: blocks.append(self) or block(self, patience))
    Alternation(*(side(name, tmp_path, "0.005") for name in "ab"), tmp_path / "work", budget=8).run(lambda found: True)
    each = [looks.count(number) for number in range(1, len(blocks))]
    assert len(each) >= ROUNDS
    assert sorted(each)[len(each) // 2] <= 12  # one look in 5 ms, all through a block of 0.2 s, would be forty


def test_two_versions_begin_to_train_one_after_the_other(tmp_path):
    """Both start at once; but one that trains waits until the other one has: they would take the cores from each other."""
    telling = SCRIPT.replace("        time.sleep", "        print(time.monotonic(), flush=True)\n        time.sleep")
    (tmp_path / "train.py").write_text(telling)
    work = tmp_path / "work"
    Alternation(*(side(name, tmp_path, "0.05") for name in "ab"), work, budget=1).run(lambda found: True)
    first, second = sorted([float(line) for line in (work / f"{name}-0" / "output.log").read_text().split()] for name in "ab")
    # Six steps at least until the loop is known and watched; the one that waits was stopped within its first ones.
    between = [moment for moment in second if first[2] < moment < first[5]]
    assert len(between) <= 1


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [process.environ().get("PERFDOC_RUN_DIR", "")]
    except psutil.Error:
        return []


def test_a_side_that_fails_is_named_with_its_error(tmp_path):
    """The other side was fine: the message says which failed, and how, and the exit code is 4."""
    (tmp_path / "train.py").write_text(SCRIPT)
    runner = Alternation(side("base", tmp_path, "0.01"), side("head", tmp_path, "fast"), tmp_path / "work", budget=10)
    with pytest.raises(PerfdocError, match="head: the script fails: ValueError: could not convert string to float") as error:
        runner.run(lambda found: True)
    assert error.value.exit_code == 4
    assert not _of(tmp_path)


def test_what_set_up_makes_does_not_stay(tmp_path):
    """A log opened before training appears in the checkout neither while both run nor afterwards."""
    work = tmp_path / "runs"
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "train.py").write_text('open("run.log", "w").write("start")\n' + SCRIPT)
    for arguments in (["init", "-q"], ["add", "."], ["-c", "user.email=a@b.org", "-c", "user.name=a", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=checkout, check=True)
    runner = Alternation(side("one", checkout, "0.002"), side("two", checkout, "0.002"), work, budget=5)
    seen = set()
    runner.run(lambda found: seen.update(p.name for p in checkout.iterdir()) is None)
    assert seen | {p.name for p in checkout.iterdir()} == {".git", "train.py"}


def test_a_script_that_ends_while_it_is_measured(tmp_path):
    """The blocks that ran before it ended by itself count."""
    (tmp_path / "train.py").write_text(SCRIPT)
    one, two = (side(name, tmp_path, "0.002", "40") for name in ("one", "two"))
    runner = Alternation(one, two, tmp_path / "work", budget=10, block=1.5)
    runner.run(lambda found: False)
    assert all(1 <= len(rounds) < ROUNDS for rounds in runner.rounds)


DRIVER = """
import sys
from pathlib import Path
from perfdoc.compare.paired_runs import Alternation, Side
here = Path(sys.argv[1])
one, two = (Side(n, [sys.executable, "train.py", "0.01"], here, here, python_path=[sys.argv[2]]) for n in ("one", "two"))
Alternation(one, two, here / "work", budget=60).run(lambda ratio: False)
"""


def test_nothing_stays_when_perfdoc_is_killed(tmp_path):
    """Both sides and their workers stand still most of the time: after kill -9 of perfdoc none of them is left for ever."""
    (tmp_path / "train.py").write_text(SCRIPT.replace("batch_size=8", "batch_size=8, num_workers=1, persistent_workers=True"))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), QUICK_START])
    try:
        until = time.monotonic() + 90
        while len(list(tmp_path.glob("work/*/events-*.jsonl"))) < 2 or len(_of(tmp_path)) < 4:
            assert driver.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        driver.kill()
        driver.wait()
    until = time.monotonic() + 10
    while _of(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert _of(tmp_path) == []


def _of(folder):
    """Processes that carry a run below ``folder`` in their environment."""
    return [p for p in psutil.process_iter() if str(folder) in " ".join(_environment(p))]


@pytest.mark.alone
def test_verify_prints_predicted_against_realised(tmp_path, monkeypatch):
    """A patch that drops a sleeping loader's wait: realised is measured, the user's files stay, folders of links are gone."""
    (tmp_path / "beside.txt").write_text("data")
    tmp_path = tmp_path / "project"
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    capture = captured(tmp_path, """
        import sys, time, torch
        from torch.utils.data import DataLoader, Dataset

        class Slow(Dataset):
            def __len__(self):
                return 100000
            def __getitem__(self, index):
                time.sleep(0.004)
                return torch.zeros(4)

        assert open("../beside.txt").read() == "data"
        model = torch.nn.Linear(4, 4)
        loader = DataLoader(Slow(), batch_size=4)  # loader
        optimizer = torch.optim.SGD(model.parameters(), 0.1)  # made
        for x in loader:
            time.sleep(0.016)
            loss = model(x).sum()  # forward
            loss.backward()  # backward
            optimizer.step()  # step
            optimizer.zero_grad()
    """)
    capture.run.id, capture.run.command = "one", [sys.executable, "train.py"]
    folder = tmp_path / ".perfdoc" / "runs" / "one"
    folder.mkdir(parents=True)
    capture.write(folder)
    make.write(make.make(capture, {"dataloader_workers": "1"}), folder)
    before = (tmp_path / "train.py").read_bytes()
    ran = perfdoc("verify", "--budget", "20", "--precision", "5", "--json", cwd=tmp_path, PYTHONPATH=QUICK_START)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert 1.4 < found["realised"]["speedup"] < 2.2
    assert found["predicted"] is None
    assert 0.02 < found["original_step"]["now"] < 0.3
    assert found["original_step"]["in_scan"] is None
    assert (tmp_path / "train.py").read_bytes() == before
    assert not (folder / "verify" / "trees").exists()
    assert json.loads((folder / "verified.json").read_text()) == found


@pytest.mark.parametrize(("now", "in_scan", "told"), [(0.1, 0.098, False), (0.178, 0.093, True), (0.08, 0.1, True)])
def test_verify_says_when_the_original_runs_at_another_speed(now, in_scan, told):
    """The original's own step tells whether predicted and realised can be compared as they are."""
    said = pace(OriginalStep(now, in_scan))
    assert ("another speed" in said) is told
    assert seconds(now) in said


def test_verify_has_a_pace_without_a_scan_to_compare_with():
    """Of a scan without blocks only the step of now is told."""
    assert pace(OriginalStep(0.1, None)) == "100 ms a step"


ALLOCATING = """
import os
import torch

torch.set_num_threads(1)
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
blob = bytes(200_000)
while True:
    for _ in range(40):
        held = [bytearray(100_000) for _ in range(20)]  # below glibc's threshold for a mapping of its own: from the heap's top
        del held
    if os.environ.get("MUCH") == "yes":
        for _ in range(20000):
            blob.count(1, 0, 500)
    loss = model(torch.zeros(4, 8)).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.alone
def test_verify_tries_an_environment_variable(tmp_path, monkeypatch):
    """Without a plan: the script as it is, with and without the variable, told with its ratio; the files stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(ALLOCATING)
    scanned = perfdoc("scan", "--clock-only", "--budget", "2", "train.py", cwd=tmp_path)
    assert scanned.code == 0, scanned.err
    ran = perfdoc("verify", "--env", "MUCH=yes", "--budget", "15", "--precision", "10", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "variable   MUCH=yes" in ran.out
    assert "patch" not in ran.out
    (kept,) = (tmp_path / ".perfdoc" / "runs").glob("*/verified*.json")
    assert kept.name != "verified.json", "that is what the plan came to"
    found = json.loads(kept.read_text())
    assert found["variables"] == {"MUCH": "yes"}
    assert found["realised"]["high"] < 0.9
    assert found["predicted"] is None
    assert (tmp_path / "train.py").read_text() == ALLOCATING


@pytest.mark.parametrize(("counts", "added", "told"), [
    ({"original": 3000.0, "patched": 10200.0}, {}, "--env MALLOC_TRIM_THRESHOLD_="),
    ({"original": 3000.0, "patched": 0.0}, {"MALLOC_TRIM_THRESHOLD_": "1"}, "3,000 page faults a step (6% of it), 0 in"),
    ({"original": 300.0, "patched": 0.0}, {}, None),
])
def test_memory_that_goes_back_and_forth_is_told(counts, added, told):
    """Many page faults a step: what to try, unless that is what was tried; few of them: nothing."""
    said = page_faults(counts, 2e-6, 0.1, added)
    assert said is None if told is None else told in said
    assert not said or not added or "--env" not in said


def test_a_variable_is_a_name_with_a_value(tmp_path):
    """One line that says how it is written, and exit code 2."""
    ran = perfdoc("verify", "--env", "MALLOC_TRIM_THRESHOLD_", cwd=tmp_path)
    assert ran.code == 2
    assert "--env takes NAME=VALUE" in ran.err
    ran = perfdoc("verify", "--env", "PYTHONPATH=lib", cwd=tmp_path)
    assert ran.code == 2
    assert "perfdoc needs that to get into the script" in ran.err
