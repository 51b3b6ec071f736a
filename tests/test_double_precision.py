"""Models of float64: tried in float32 and put back to the last bit, told at the line that asks for it, never part of a plan."""

import ast
from types import SimpleNamespace

import builders
import pytest
import torch
from perfdoc_probes.double_precision import DoublePrecision, asks_for_double, converts_a_model
from perfdoc_probes.single_precision import SinglePrecision
from test_rules import findings, make
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.inject.feed.handle import Handle


class Loop:
    """A loop over numbers as numpy makes them."""

    ranks, device = 1, "cpu"

    def __init__(self, kind=torch.optim.Adam, dtype=torch.float64, **options):
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(32, 6, dtype=dtype), torch.randn(32, 1, dtype=dtype), torch.arange(32))
        loader = DataLoader(data, batch_size=4)
        handle = Handle(0, loader, "train.py:1")
        handle._iterator = lambda: None
        handle.hold()
        self.loaders = [handle]
        self.models = [nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).to(dtype)]
        self.optimizers = [kind(self.models[0].parameters(), **options)]

    def step(self, treatment=None):
        """One step; the types that were computed in."""
        (model,), (optimizer,) = self.models, self.optimizers
        x, y, _ = self.loaders[0].fetch()
        args, kwargs = (x,), {}
        if treatment is not None:
            args, kwargs = treatment.on_forward(model, args, kwargs)
        out = model(*args, **kwargs)
        loss = nn.functional.mse_loss(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return x.dtype, y.dtype, out.dtype, model[0].weight.grad.dtype


def picture(loop):
    """Every tensor of the model and its optimizer: which one it is, and what is in it."""
    model, optimizer = loop.models[0], loop.optimizers[0]
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {(place, name): value for place, parts in enumerate(optimizer.state.values()) for name, value in parts.items()
             if isinstance(value, torch.Tensor) and value.dim()}
    return {name: (id(value), value.data_ptr(), value.dtype, value.detach().clone()) for name, value in (held | state).items()}


def alike(one, other):
    return one.keys() == other.keys() and all(
        one[k][:3] == other[k][:3] and torch.equal(one[k][3], other[k][3]) for k in one if "num_batches" not in k)


@pytest.mark.parametrize(("kind", "options"), [
    (torch.optim.Adam, {}), (torch.optim.AdamW, {"foreach": True}), (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
])
def test_steps_run_in_float32_and_leave_no_trace(kind, options):
    """Batch, outcome and gradients are float32 under the change; afterwards every tensor is the one of before, bit for bit."""
    loop, treatment = Loop(kind, **options), SinglePrecision()
    loop.step()
    assert treatment.offer(loop).status == "offered"
    before = picture(loop)
    gradient = loop.models[0][0].weight.grad
    for _ in range(2):
        treatment.apply(loop, "float32")
        assert set(loop.step(treatment)) == {torch.float32}
        loop.step(treatment)
        treatment.restore(loop)
        assert alike(before, picture(loop))
        assert loop.models[0][0].weight.grad is gradient
    assert set(loop.step()) == {torch.float64}


def test_state_made_under_the_change_becomes_float64():
    """An optimizer that takes its first step in float32 goes on in float64."""
    loop, treatment = Loop(), SinglePrecision()
    treatment.apply(loop, "float32")
    loop.step(treatment)
    treatment.restore(loop)
    assert {state["exp_avg"].dtype for state in loop.optimizers[0].state.values()} == {torch.float64}
    loop.step()


def test_the_default_type_is_put_back():
    """Tensors that the script makes are float32 meanwhile."""
    torch.set_default_dtype(torch.float64)
    try:
        loop, treatment = Loop(), SinglePrecision()
        treatment.apply(loop, "float32")
        assert torch.zeros(1).dtype is torch.float32
        treatment.restore(loop)
        assert torch.zeros(1).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_where_it_is_not_offered():
    """Models of float32, several ranks, and optimizers that keep float64 in lists."""
    assert SinglePrecision().offer(Loop(dtype=torch.float32)).status == "not applicable"
    several = Loop()
    several.ranks = 2
    assert "several ranks" in SinglePrecision().offer(several).reason
    listing = Loop()
    listing.step()
    next(iter(listing.optimizers[0].state.values()))["history"] = [torch.zeros(1, dtype=torch.float64)]
    assert "cannot be put back" in SinglePrecision().offer(listing).reason


def test_the_probe_tells_shares():
    """Of parameters and of a batch's floating-point numbers."""
    parameters, inputs = DoublePrecision().measure(Loop(), {})
    assert (parameters.median, inputs.median) == (1.0, 1.0)
    assert all(isinstance(m, Unavailable) for m in DoublePrecision().measure(Loop(dtype=torch.float32), {}))
    assert isinstance(DoublePrecision().measure(SimpleNamespace(loaders=[], models=Loop().models), {})[1], Unavailable)


@pytest.mark.parametrize(("line", "model"), [
    ("model.double()", True), ("net = Net(3).double()", True), ("torch.set_default_dtype(torch.float64)", True),
    ("self.model.to(device, torch.double)", True), ("nn.Linear(3, 4, dtype=torch.float64)", True), ("x = x.double()", False),
    ("y.to(dtype=torch.float64)", False),
])
def test_the_line_that_asks_for_float64_is_found(line, model):
    """Of several such lines, one that is about the model counts first."""
    nodes = list(ast.walk(ast.parse(line)))
    assert any(asks_for_double(node) for node in nodes)
    assert any(converts_a_model(node) for node in nodes) is model


@pytest.mark.parametrize("line", ["model.float()", "model.to(device)", "double(x)", "x.astype(float64)"])
def test_other_lines_do_not_ask_for_it(line):
    """Conversions to other types, and functions of one's own."""
    assert not any(asks_for_double(node) for node in ast.walk(ast.parse(line)))


def seen():
    return [Measurement("double.parameters", "1", (1.0,), {"site": "train.py:12"}), Measurement("double.inputs", "1", (1.0,))]


def test_the_gain_is_told_at_the_line():
    """Measured, with the remark that it changes the numbers."""
    found = findings(make({"single_precision=float32": 1.8}, measurements=seen()))["PD318"]
    assert (found.verdict, found.where) == ("helps", "train.py:12")
    assert "float64" in found.title
    assert "the step is 1.8" in found.title
    assert found.evidence[2] == "changes the numbers: never part of a plan"


def test_it_is_told_where_nothing_could_be_tried():
    """With the reason; a model of float32 gives no finding."""
    offers = [builders.offer("single_precision", status="untestable here", reason="with several ranks ...", role="trade_off")]
    found = findings(make(measurements=seen(), offers=offers))["PD318"]
    assert (found.verdict, found.where) == ("undecided", "train.py:12")
    assert "several ranks" in found.evidence[-1]
    assert "PD318" not in findings(make())
