"""The backward pass by the lines that made what it goes through: traced for a few steps, and nothing of it stays."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from perfdoc.inject.lines.backward_lines import BackwardLines


class Net(nn.Module):
    """A small part and one whose backward pass takes most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(8, 8)
        self.large = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        y = self.small(x)  # small
        z = self.large(picture)  # large
        return y.mean() + z.square().mean()  # loss


def lines(backward: BackwardLines) -> dict[int, float]:
    """Seconds by the innermost line."""
    found: dict[int, float] = {}
    for chain, seconds in backward.seconds.items():
        line = chain[-1][1] if chain else 0
        found[line] = found.get(line, 0.0) + seconds
    return found


def at(comment: str) -> int:
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith(f"# {comment}"))


def train(backward: BackwardLines, steps: int = 3) -> Net:
    model, x, picture = Net(), torch.randn(4, 8), torch.randn(8, 8, 64, 64)
    for _ in range(steps):
        loss = model(x, picture) * 2.0  # caller
        backward.on_backward(loss)
        loss.backward()
        backward.on_optimizer(None)
    return model


def test_time_goes_to_the_line_that_made_the_node() -> None:
    """Every operation's backward pass belongs to the line that called it: layers, sums, and what the caller multiplies."""
    backward = BackwardLines()
    backward.begin()
    try:
        train(backward)
    finally:
        backward.end()
    found = lines(backward)
    assert set(found) == {at("small"), at("large"), at("loss"), at("caller")}
    assert all(seconds > 0 for seconds in found.values())
    chain = max(backward.seconds, key=lambda one: backward.seconds[one])
    assert [code.co_name for code, _ in chain][-2:] == ["train", "forward"]


def test_gradients_are_the_same_and_nothing_stays() -> None:
    """Traced or not, gradients are equal; afterwards nothing is traced, in no frame."""
    gradients = []
    for traced in (False, True):
        torch.manual_seed(1)
        backward = BackwardLines()
        if traced:
            backward.begin()
        model = train(backward)
        backward.end()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert sys.gettrace() is None
    assert sys._getframe().f_trace is None


def test_who_traces_already_is_left_alone() -> None:
    """With a debugger or coverage in the thread lines are not traced, and its trace function stays."""
    result = []

    def watched() -> None:
        def own(*_: object) -> None:
            return None

        sys.settrace(own)
        result.append(BackwardLines.possible())
        backward = BackwardLines()
        backward.end()
        result.append(sys.gettrace() is own)
        sys.settrace(None)

    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    assert result == [False, True]


def test_a_graph_that_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of nodes no hook is set, and backward runs as it is."""
    monkeypatch.setattr("perfdoc.inject.lines.backward_lines.MOST_NODES", 3)
    backward = BackwardLines()
    backward.begin()
    try:
        model = train(backward, 1)
    finally:
        backward.end()
    assert backward.seconds == {}
    assert model.small.weight.grad is not None
