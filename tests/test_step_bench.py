"""``perfdoc.bench_step``: the experiment as a function, which gives everything back."""

from __future__ import annotations

import copy
import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import PACE
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perfdoc
from perfdoc.core.errors import PerfdocError
from perfdoc.report import everything
from perfdoc.report.model import build

pytestmark = pytest.mark.alone


def step(width=192):
    """A small model with its batch, loss and optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    batch = torch.randn(64, width), torch.randint(0, 10, (64,))
    return model, batch, nn.functional.cross_entropy, torch.optim.AdamW(model.parameters(), lr=1e-3)


def torchs_own():
    """What a session replaces in torch, as it is now."""
    iterator = torch.utils.data.dataloader._BaseDataLoaderIter
    return [
        torch.autograd.backward, torch.autograd.grad, DataLoader.__init__, iterator.__next__, iterator.__init__,
        nn.Module.__call__, nn.Sequential.forward, torch.autocast.__enter__, torch.optim.Optimizer.zero_grad,
        torch.optim.lr_scheduler.StepLR.step, torch.get_num_threads(), torch.get_float32_matmul_precision(),
        "forward" in nn.Sequential.__dict__, "step" in torch.optim.lr_scheduler.StepLR.__dict__,
    ]


@pytest.mark.alone  # it counts blocks
def test_a_step_is_benched_and_everything_is_as_before():
    """Arms get verdicts with intervals; weights, optimizer state, random numbers and torch itself are as they were."""
    model, batch, loss_fn, optimizer = step()
    loss_fn(model(batch[0]), batch[1]).backward()
    optimizer.step()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    model.eval()
    own, seed = torchs_own(), torch.get_rng_state()
    found = perfdoc.bench_step(model, batch, loss_fn, optimizer, budget=8.0, only=("autocast", "optimizer_implementation"))
    assert {"autocast=bf16", "optimizer_implementation=foreach"} <= set(found.verdicts())
    assert found.capture.loop.step.optimizer_calls == 1
    assert len([block for block in found.capture.blocks if block.arm == "control"]) >= 4
    assert PACE.search(str(found))
    assert "forward" in str(found)
    assert "tried in your loop" in everything.render(build(found.diagnosis), 100)
    assert "<iframe" in found._repr_html_()
    assert torchs_own() == own
    assert torch.equal(torch.get_rng_state(), seed)
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for place, values in state["state"].items():
        assert all(torch.equal(now["state"][place][name], value) for name, value in values.items())


def test_a_loader_is_benched_with_its_settings():
    """A DataLoader as the batch: its workers are among what is tried, and nothing is left on it."""
    model, (x, y), loss_fn, optimizer = step()
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    before = set(vars(loader))
    found = perfdoc.bench_step(model, loader, loss_fn, optimizer, budget=4.0, only=("dataloader_workers",))
    assert any("dataloader_workers" in arm for arm in found.verdicts())
    assert set(vars(loader)) == before


def test_the_steps_own_error_comes_through_and_torch_is_given_back():
    """A loss that raises is the caller's: its error, and no wrapper left behind."""
    model, batch, _, optimizer = step()
    own = torchs_own()

    def broken(out, target):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        perfdoc.bench_step(model, batch, broken, optimizer, budget=4.0)
    assert torchs_own() == own


def test_a_change_that_breaks_the_step_is_dropped():
    """What fails only under a treatment is reported as failing in this loop; the others go on."""
    model, batch, loss_fn, optimizer = step()

    def strict(out, target):
        if out.dtype != torch.float32:
            raise TypeError("float32 only")
        return loss_fn(out, target)

    found = perfdoc.bench_step(model, batch, strict, optimizer, budget=16.0, only=("autocast", "optimizer_implementation"))
    assert found.verdicts()["autocast=bf16"] == "untestable here"
    assert len(found.diagnosis.seen.values("optimizer_implementation=foreach")) >= 2


def test_a_model_without_parameters_is_refused():
    """There is nothing to train: one clear line."""
    with pytest.raises(PerfdocError, match="no parameters"):
        perfdoc.bench_step(nn.ReLU(), (torch.ones(2), torch.ones(2)), nn.functional.mse_loss)


KILLED = """
import torch
from torch.utils.data import DataLoader, TensorDataset
import perfdoc

model = torch.nn.Linear(64, 10)
data = TensorDataset(torch.randn(512, 64), torch.randint(0, 10, (512,)))
loader = DataLoader(data, batch_size=8, num_workers=2)
perfdoc.bench_step(model, loader, torch.nn.functional.cross_entropy, budget=60, only=["dataloader_workers"])
"""


def test_a_process_that_is_killed_leaves_no_worker_that_stands_still():
    """Killed outright, as notebooks end their kernels, while workers rest that could not notice it: they end too."""
    running = subprocess.Popen([sys.executable, "-c", KILLED], stderr=subprocess.DEVNULL)
    process, stopped = psutil.Process(running.pid), []
    end = time.monotonic() + 60
    while not stopped and time.monotonic() < end:
        time.sleep(0.02)
        stopped = [child for child in process.children() if child.is_running() and child.status() == psutil.STATUS_STOPPED]
    workers = process.children()
    running.kill()
    running.wait()
    assert stopped
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
