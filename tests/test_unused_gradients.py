"""Gradients that no optimizer uses: found by what backward reaches, switched off, and given back."""

from __future__ import annotations

import pytest
import torch
from perfdoc_probes.unused_gradients import UnusedGradients
from torch import nn

FILE = "/project/train.py"
APART = """
def train(steps):
    for n in range(steps):
        features = backbone(x)
        loss = head(features).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
INSIDE = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        features = self.encoder(x)
        return self.head(features)

def train(steps):
    for n in range(steps):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
"""


class Loop:
    """A loop of one process."""

    device, ranks = "cpu", 1

    def __init__(self, *optimizers):
        self.optimizers = list(optimizers)


def script(text, **names):
    """The script's functions, as if they stood in the user's file."""
    names.update(torch=torch, nn=nn, x=torch.randn(3, 4))
    exec(compile(text, FILE, "exec"), names)
    return names


@pytest.fixture
def apart():
    """A backbone that is only left out of the optimizer."""
    torch.manual_seed(0)
    backbone, head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval(), nn.Linear(4, 2)
    return script(APART, backbone=backbone, head=head, optimizer=torch.optim.SGD(head.parameters(), lr=0.1))


def having_seen(names, *arguments):
    """The treatment after it watched some steps, the loop, and what it offers."""
    treatment, loop = UnusedGradients(), Loop(names["optimizer"])
    end = treatment.sense(loop)
    try:
        names["train"](*arguments)
    finally:
        end()
    return treatment, loop, treatment.offer(loop)


def test_a_backbone_in_eval_mode_is_found(apart):
    """The module, its number of parameters, and the line that calls it; the trained head is none."""
    _, _, offer = having_seen(apart, 3)
    assert offer.status == "offered"
    assert offer.site == f"{FILE}:4"
    assert offer.reason.startswith("Sequential: 40 parameters, in 4 tensors,")
    assert offer.levels[0].change == "requires_grad_(False) for Sequential"


def test_a_part_of_the_model_is_found():
    """Where encoder and head are one model, the encoder is named by its place, with the line of its own call."""
    names = script(INSIDE)
    model = names["model"] = names["Model"]()
    names["optimizer"] = torch.optim.AdamW(model.head.parameters())
    _, _, offer = having_seen(names, 3)
    assert offer.reason.startswith("Model.encoder: 40 parameters")
    assert offer.site == f"{FILE}:9"


def test_nothing_of_the_look_stays(apart):
    """Torch's functions and global hooks are as before."""
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    before = torch.autograd.backward, torch.autograd.grad, dict(hooks)
    having_seen(apart, 2)
    having_seen(apart, 8)
    assert (torch.autograd.backward, torch.autograd.grad, dict(hooks)) == before


def test_the_trained_parameters_get_the_same_numbers(apart):
    """A step under the treatment gives the head the gradients of a step without, and the backbone none."""
    treatment, loop, _ = having_seen(apart, 2)
    weights = {name: value.clone() for name, value in apart["head"].state_dict().items()}
    apart["train"](1)
    expected = [p.grad.clone() for p in apart["head"].parameters()]
    apart["head"].load_state_dict(weights)
    treatment.apply(loop, "off")
    apart["train"](1)
    assert all(p.grad is None for p in apart["backbone"].parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(apart["head"].parameters(), expected, strict=True))
    treatment.restore(loop)


def test_gradients_are_put_back(apart):
    """After it, every parameter requires a gradient again and has the very tensor that it had."""
    treatment, loop, _ = having_seen(apart, 2)
    frozen = apart["backbone"][0].bias.requires_grad_(False)
    before = [(p.requires_grad, p.grad, p.grad.clone()) for p in apart["backbone"].parameters()]
    treatment.apply(loop, "off")
    apart["train"](2)
    treatment.restore(loop)
    treatment.restore(loop)
    after = [(p.requires_grad, p.grad, p.grad) for p in apart["backbone"].parameters()]
    assert [entry[0] for entry in after] == [entry[0] for entry in before]
    assert all(mine[1] is theirs[1] and torch.equal(mine[2], theirs[2]) for mine, theirs in zip(after, before, strict=True))
    assert not frozen.requires_grad


def test_what_another_optimizer_holds_is_used(apart):
    """Parameters of an optimizer that has not stepped yet (one of two networks) are no waste."""
    other = torch.optim.SGD(apart["backbone"].parameters(), lr=0.1)
    assert having_seen(apart, 3)[2].status == "not applicable"
    assert len(other.param_groups) == 1


def test_what_is_updated_by_hand_is_used(apart):
    """A parameter that the script changes itself, from its gradient, keeps it."""
    text = APART + """
        with torch.no_grad():
            backbone[0].weight -= 0.1 * backbone[0].weight.grad
"""
    names = script(text, **{name: apart[name] for name in ("backbone", "head", "optimizer")})
    _, _, offer = having_seen(names, 3)
    assert offer.reason.startswith("Sequential: 24 parameters, in 3 tensors")


def test_master_weights_use_the_models_gradients(apart):
    """An optimizer over copies in another precision is given the model's gradients, though it does not hold its parameters."""
    model = apart["head"]
    masters = [nn.Parameter(p.detach().double()) for p in model.parameters()]
    text = APART.replace("        optimizer.step()", """        for master, p in zip(masters, head.parameters()):
            master.grad = p.grad.double()
        optimizer.step()""")
    names = script(text, backbone=apart["backbone"].requires_grad_(False), head=model, masters=masters,
                   optimizer=torch.optim.SGD(masters, lr=0.0))
    assert "copied" in having_seen(names, 3)[2].reason


def test_gradients_that_are_asked_for_are_used(apart):
    """``torch.autograd.grad`` of a parameter, and a hook on it, are uses."""
    apart["backbone"][2].weight.register_hook(lambda gradient: None)
    asks = "        torch.autograd.grad(loss, [backbone[0].weight], retain_graph=True)\n"
    text = APART.replace("        loss.backward()", f"{asks}        loss.backward()")
    names = script(text, **{name: apart[name] for name in ("backbone", "head", "optimizer")})
    assert having_seen(names, 3)[2].reason.startswith("Sequential: 8 parameters, in 2 tensors")


def test_a_frozen_backbone_and_a_by_hand_loop_have_none(apart):
    """Where it is frozen already, or nothing is held by any optimizer, there is nothing to offer; nor between ranks."""
    treatment, loop, _ = having_seen(apart, 3)
    by_hand = UnusedGradients()
    assert by_hand.offer(Loop()).reason == "parameters are updated by hand"
    loop.ranks = 2
    assert "ranks" in treatment.offer(loop).reason
    apart["backbone"].requires_grad_(False)
    assert having_seen(apart, 3)[2].status == "not applicable"
