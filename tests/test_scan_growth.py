"""A scan of a script that holds more with every step: what holds it, where it is fed, and what grew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Scanned

Scan = Callable[..., Scanned]

KEEPS = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Meter:
    def __init__(self):
        self.sum = self.count = 0

    def update(self, value, count):
        self.sum = self.sum + value * count
        self.count += count


def train():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(400_000, 64)), batch_size=64)
    losses, distance, history = Meter(), Meter(), []
    for epoch in range(1000):
        for (x,) in loader:
            predicted = model(x)
            loss = predicted.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(x))
            distance.update((predicted - x).abs().mean(), len(x))
            history.append(loss.item())


train()
"""


def line(text: str) -> str:
    """``train.py:line`` of the first line with this text."""
    return f"train.py:{next(n for n, found in enumerate(KEEPS.splitlines(), 1) if text in found)}"


@pytest.mark.alone
def test_a_scan_names_what_keeps_the_graph_and_where_it_is_fed(scan: Scan) -> None:
    """Of two meters of one class the one that is fed with a graph, at its line; moments tell the growth of the process."""
    scanned = scan("train.py", text=KEEPS, budget=12, options=("--json", "--only", "zero_grad"))
    assert scanned.code == 0, scanned.err
    (finding,) = [found for found in scanned.found["findings"] if found["code"] == "PD404"]
    assert "Meter.sum" in finding["title"]
    assert finding["where"] == line("self.sum = self.sum")
    assert f"fed at {line('distance.update')}" in finding["title"]
    assert finding["verdict"] == "hurts"
    assert not [found for found in scanned.found["findings"] if found["code"] == "PD808"]
    found = scanned.capture["moments"]
    assert len(found) > 3
    assert all(len(moment["phases"]) == 7 and moment["count"] > 0 for moment in found)
    # Of the first second nothing is known: the machine may be slow, but what is kept grows with each step.
    sizes = [moment["memory"] for moment in found if "memory" in moment]
    assert sizes[-1] > sizes[0]
    grown = [m for m in scanned.capture["measurements"] if m["metric"] == "lists.growing" and "samples" in m]
    assert [m["conditions"]["name"] for m in grown] == ["history"]
