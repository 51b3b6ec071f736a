"""Loops in the styles that people write: the step is found, alternatives are tried, the script is ended cleanly."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from conftest import SCRIPTS, Scanned, left_behind, perfdoc

Scan = Callable[..., Scanned]


@pytest.mark.parametrize(
    ("script", "step", "line"),
    [
        ("plain.py", {"batches": 1, "optimizer_calls": 1, "forwards": 1}, 29),
        ("by_next.py", {"batches": 1, "optimizer_calls": 1, "forwards": 1}, 11),
        ("accumulation.py", {"batches": 4, "optimizer_calls": 1, "backwards": 4}, 6),
        ("gan.py", {"batches": 1, "optimizer_calls": 2, "backwards": 3}, 11),
        ("iterable.py", {"batches": 1, "optimizer_calls": 1}, 16),
        ("validation.py", {"batches": 1, "optimizer_calls": 1}, 10),
        ("swallowing.py", {"batches": 1, "optimizer_calls": 1}, 6),
        ("huge_sampler.py", {"batches": 1, "optimizer_calls": 1}, 17),
    ],
)
def test_loops_with_a_loader(scan: Scan, script: str, step: dict[str, int], line: int) -> None:
    """The step, its batches and the loader's place are recognised, and workers are among what is tried or was asked."""
    scanned = scan(script, budget=12)
    assert scanned.code == 0, scanned.err
    loop = scanned.found["loop"]
    assert step.items() <= loop["step"].items()
    assert [loader["site"] for loader in loop["loaders"]] == [f"{script}:{line}"]
    assert scanned.found["run"]["laps"] == 1
    assert {block["arm"] for block in scanned.capture["blocks"]} >= {"control", "A/A", "compute_ceiling=on"}
    assert any("dataloader_workers" in arm["arm"] for arm in scanned.found["arms"])
    assert left_behind(scanned.run_folder) == []


@pytest.mark.parametrize(
    ("script", "step"),
    [
        ("language_model.py", {"batches": 0, "optimizer_calls": 1, "forwards": 1}),
        ("lbfgs.py", {"batches": 0, "optimizer_calls": 1, "forwards": 20, "backwards": 20}),
        ("by_hand.py", {"batches": 0, "backwards": 1, "by_hand": True}),
        ("spawned.py", {"batches": 0, "optimizer_calls": 1}),
    ],
)
def test_loops_without_a_loader(scan: Scan, script: str, step: dict[str, int]) -> None:
    """Loops that make batches by hand, call closures, update by hand or train in a child process are understood too."""
    scanned = scan(script)
    assert scanned.code == 0, scanned.err
    assert step.items() <= scanned.found["loop"]["step"].items()
    assert scanned.found["loop"]["loaders"] == []
    arms = {block["arm"] for block in scanned.capture["blocks"]}
    assert {"control", "A/A"} <= arms
    assert not any("dataloader_workers" in arm for arm in arms)
    assert left_behind(scanned.run_folder) == []


@pytest.mark.alone
def test_validation_does_not_run_while_the_loop_is_held(scan: Scan) -> None:
    """Epochs do not end during the experiment, and a one-cycle schedule is not driven past its last step."""
    scanned = scan("validation.py", budget=8)
    assert scanned.code == 0, scanned.err
    epochs = (scanned.run_folder / "output.log").read_text().splitlines()
    steps = sum(block["count"] + len(block["warmup"]) for block in scanned.capture["blocks"])
    assert steps > 24 * 50, "the scan made more steps than the script's epochs have"
    assert len(epochs) < 24


def test_a_treatment_that_breaks_the_script_is_given_up(scan: Scan) -> None:
    """A loss that refuses bf16 ends the script under autocast; the scan starts it again and goes on without autocast."""
    scanned = scan("fragile.py", budget=12)
    assert scanned.code == 0, scanned.err
    assert scanned.found["run"]["laps"] == 2
    assert "this loss wants float32" in scanned.capture["experiment"]["failed"]["autocast=bf16"]
    later = {block["arm"] for block in scanned.capture["blocks"] if block["lap"] == 1}
    assert "control" in later
    assert not any("autocast" in arm for arm in later)
    assert any("this loss wants float32" in entry["why"] for entry in scanned.found["untestable"])


def test_two_ranks_switch_together(tmp_path) -> None:
    """Under torchrun every rank is clocked, rank 0 leads, and the other follows its switches to the end."""
    scanned = perfdoc(
        "scan", "--json", "--budget", "8", "--", sys.executable, "-m", "torch.distributed.run",
        "--nproc-per-node", "2", str(SCRIPTS / "ranks.py"), cwd=tmp_path,
    )
    assert scanned.code == 0, scanned.err
    assert scanned.found["loop"]["ranks"] == 2
    assert {"control", "A/A"} <= {block["arm"] for block in scanned.capture["blocks"]}
    assert sorted(event["reason"] for event in scanned.events("end"))[-1] == "rank 0 ended the experiment"
    assert left_behind(scanned.run_folder) == []


def test_the_clock_finds_where_the_time_goes(scan: Scan) -> None:
    """A data set that sleeps shows as waiting for data, a model that sleeps as forward, and nothing of the step is lost."""
    scanned = scan(
        "sleepy.py", budget=5, options=("--json", "--clock-only"),
        text="""
import time, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
class Data(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.004)
        return torch.randn(4)
class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.016)
        return super().forward(x)
model = nn.Sequential(Slow(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in DataLoader(Data(), batch_size=2):
    loss = model(x).pow(2).mean()
    time.sleep(0.004)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.004)
""",
    )
    assert scanned.code == 0, scanned.err
    anatomy = scanned.found["anatomy"]
    # Sleeping takes at least what it was asked for, and on a busy machine more: lower bounds and the order are certain.
    for phase, slept in (("data", 0.008), ("forward", 0.016), ("loss", 0.004), ("other", 0.004)):
        assert anatomy[phase] >= 0.99 * slept, anatomy
    assert max(anatomy, key=anatomy.get) == "forward"
    steps = next(m["samples"] for m in scanned.capture["measurements"] if m["metric"] == "step.time")
    assert sum(anatomy.values()) == pytest.approx(sum(steps) / len(steps), rel=0.01)
    assert scanned.capture["blocks"] == []


@pytest.mark.alone
def test_a_batch_that_does_not_fit_is_survived(scan: Scan) -> None:
    """Twice the batch fits, four times runs out of memory: that arm is given up with the reason, the others are measured,
    their memory too."""
    scanned = scan(
        "train.py", budget=25, options=("--json", "--only", "batch_size"),
        text="""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
class Net(nn.Linear):
    def forward(self, x):
        if len(x) > 16:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        return super().forward(x)
model = Net(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randn(640, 16), torch.randint(0, 4, (640,))), batch_size=8)
for epoch in range(100000):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
    )
    assert scanned.code == 0, scanned.err
    arms = {arm["arm"]: arm for arm in scanned.found["arms"]}
    assert scanned.found["run"]["laps"] == 1
    assert arms["batch_size=x4"]["verdict"] == "untestable here"
    peaks = {m["conditions"]["arm"]: m["samples"][0] for m in scanned.capture["measurements"] if m["metric"] == "memory.peak"}
    assert peaks["control"] < peaks["batch_size=x2"]
    assert "20.00 GiB" in arms["batch_size=x4"]["note"]
    assert arms["batch_size=x2"]["effect"]["speedup"] > 1
    assert scanned.found["plan"] is None
