"""Validation with gradients: seen where it is, not taken for it where a part is frozen, and measured."""

from __future__ import annotations

import pytest
import torch
from perfdoc_probes.validation_modes import ValidationModes
from torch import nn

from perfdoc.core.treatment import EvalCall

SCRIPT = """
import contextlib, sys
import torch
from torch import nn
model = nn.Sequential(nn.Linear(64, 256), nn.Dropout(), nn.Linear(256, 4))
teacher = nn.Linear(64, 4).eval()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.randn(32, 64), torch.randint(0, 4, (32,))
for step in range(10**6):
    if step % 50 == 0 and sys.argv[1] != "never":
        model.eval()
        with torch.no_grad() if sys.argv[1] == "no_grad" else contextlib.nullcontext():
            accuracy = (model(x).argmax(1) == y).float().mean()
        model.train()
    loss = nn.functional.cross_entropy(model(x), y) + 0.1 * (model(x) - teacher(x)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("how", "fires"), [("plainly", True), ("no_grad", False), ("never", False)])
def test_validation_with_gradients_is_found_in_a_scan(scan, how, fires):
    """A script that validates with gradients is told; one under no_grad is not, nor one whose eval mode is a frozen teacher."""
    scanned = scan("train.py", how, text=SCRIPT, budget=3, options=("--json", "--only", "zero_grad"))
    assert scanned.code == 0, scanned.err
    found = {finding["code"]: finding for finding in scanned.found["findings"]}
    assert ("PD309" in found) == fires
    if fires:
        assert found["PD309"]["where"] == "train.py:13"
        assert len(found["PD309"]["evidence"]) == 2


def test_the_model_is_as_it_was():
    """Modes of all parts are as before, no gradient is left, and all three modes were timed as often."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model[1].eval()
    before = [part.training for part in model.modules()]
    running = model[1].running_mean.clone()

    class Loop:
        device = "cpu"
        eval_call = EvalCall(model, (torch.randn(4, 8),), {}, "gradients", "train.py:1")

    found = ValidationModes().measure(Loop(), {})
    assert [part.training for part in model.modules()] == before
    assert torch.equal(model[1].running_mean, running)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len({len(m.samples) for m in found}) == 1
    assert {m.conditions["mode"] for m in found} == {"gradients", "no_grad", "inference_mode"}
