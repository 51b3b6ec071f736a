"""A scan and the numbers of the training: what is compared, watched and said beside the speed."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
import pytest
from conftest import Scanned, perfdoc

Scan = Callable[..., Scanned]

ANOMALY = """
import torch
from torch import nn
torch.autograd.set_detect_anomaly(True)
model = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.ReLU())))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    loss = model(torch.randn(16, 32)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.alone
def test_a_debugging_aid_is_found_and_its_removal_computes_the_same(scan: Scan) -> None:
    """Anomaly detection left on costs much of the step: PD312 says so, and that without it the numbers are the same."""
    scanned = scan("train.py", text=ANOMALY, budget=14, options=("--json", "--only", "anomaly_detection"))
    assert scanned.code == 0, scanned.err
    finding = next(f for f in scanned.found["findings"] if f["code"] == "PD312")
    assert finding["verdict"] == "helps"
    assert finding["effect"]["low"] > 1.1
    assert finding["numerics"] == "same numbers"
    (record,) = scanned.capture["parity"]
    assert record["losses"] == record["control"] == record["again"]
    assert len(record["others"]) == 2
    assert record["others"][0] != record["control"]
    assert scanned.found["plan"]["arm"] == "anomaly_detection=off"
    jsonschema.validate(scanned.capture, perfdoc("schema", cwd=scanned.folder).found)


WATCHED = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
device = torch.device("cpu")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
model = Net().to(device)
optimizer = torch.optim.AdamW(model.parameters())
loader = DataLoader(TensorDataset(torch.randn(64, 3, 12, 12), torch.randint(0, 4, (64,))), batch_size=8)
total, seen = 0, 0.0
for epoch in range(100000):
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += loss.item()
        total = total + loss
"""


def test_one_step_is_watched(scan: Scan) -> None:
    """Syncs, a kept graph, a useless bias and the step's memory are seen in one ordinary step, with their places."""
    scanned = scan("train.py", text=WATCHED, budget=8, options=("--json", "--only", "zero_grad"))
    assert scanned.code == 0, scanned.err
    codes = {finding["code"]: finding for finding in scanned.found["findings"]}
    assert codes["PD201"]["verdict"] == "untestable here"
    assert any("train.py:25: .item()" in line for line in codes["PD201"]["evidence"])
    assert "1 place" in codes["PD201"]["title"]
    assert "PD404" in codes
    assert "conv" in codes["PD308"]["evidence"][0]
    memory = {m["metric"]: m["samples"][0] for m in scanned.capture["measurements"]
              if m["metric"].startswith("memory.") and m["conditions"] == {"arm": "control"}}
    parameters = 4 * (3 * 8 * 9 + 8 + 8 * 2 + 8 * 2 + 8 * 4 + 4) + 8
    assert memory["memory.parameters"] == parameters
    assert memory["memory.optimizer"] >= 2 * 4 * (3 * 8 * 9 + 8 + 8 * 2 + 8 * 4 + 4)
    assert memory["memory.activations"] >= 4 * 8 * 8 * 100
    assert memory["memory.peak"] == sum(value for name, value in memory.items() if name != "memory.peak")


BLOCKS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    def forward(self, x):
        return x + self.inner(x)
model = nn.Sequential(*[Block() for _ in range(6)])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(1024, 64)), batch_size=256)
for epoch in range(100000):
    for (x,) in loader:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
"""


UNLIKE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(2)
model = nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(1024, 64)), batch_size=256)
for epoch in range(100000):
    for (x,) in loader:
        optimizer.zero_grad()
        for again in range(1 if torch.get_num_threads() == 2 else 10):
            y = model(x)
        y.square().mean().backward()
        optimizer.step()
"""


def test_a_change_that_makes_other_steps_is_given_up(scan: Scan) -> None:
    """A script that calls its model ten times as often under one thread: that arm is named, and the scan goes on to its end."""
    scanned = scan("train.py", text=UNLIKE, budget=10, options=("--json", "--only", "cpu_threads,matmul_precision"))
    assert scanned.code == 0, scanned.err
    assert "none of 32 steps was like those of the loop" in scanned.capture["experiment"]["failed"]["cpu_threads=1"]
    assert {block["arm"] for block in scanned.capture["blocks"]} >= {"control", "A/A", "matmul_precision=medium"}


def test_memory_is_told_for_every_choice_of_checkpointing(scan: Scan) -> None:
    """A step's most memory with all blocks checkpointed, with every second one and with none, in this order."""
    scanned = scan("train.py", text=BLOCKS, budget=20, options=("--json", "--only", "activation_checkpointing"))
    assert scanned.code == 0, scanned.err
    peak = {m["conditions"]["arm"]: m["samples"][0] for m in scanned.capture["measurements"] if m["metric"] == "memory.peak"}
    order = [f"activation_checkpointing={level}" for level in ("blocks", "half")]
    assert peak[order[0]] < peak[order[1]] < peak["control"]
    told = {finding["code"]: finding["evidence"] for finding in scanned.found["findings"]}
    assert len([line for line in told["PD402"] if line.startswith("memory ")]) == 3, told["PD402"]
