"""Scripts copy and save their modules while perfdoc looks at them: a moving average, a checkpoint in the midst of an epoch."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import sys

import pytest
import torch
from test_treatments import Block, Loop
from torch import nn

from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover, packages
from perfdoc.core.treatment import Treatment
from perfdoc.core.unsaved import Unsaved, UnsavedForward


class Wide(nn.Module):
    """A network in which every probe that watches a step finds something to hang on to."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(70_000, 64)
        self.blocks = nn.ModuleList(Block(4) for _ in range(4))
        self.head = nn.Linear(1001, 999)
        self.last = nn.Linear(999, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looked_up = self.table(x.flatten(1)[:, :1].long().abs()).mean()
        x = torch.cat([x, x[:, :1]], 1)
        for block in self.blocks:
            x = block(x)
        x = nn.functional.pad(x.flatten(1), (0, 1001 - x[0].numel()))
        return self.last(self.head(x)) + looked_up


@pytest.fixture
def loop() -> Loop:
    """A loop over :class:`Wide`, after a step."""
    loop = Loop()
    loop.models = [Wide()]
    loop.optimizers = [torch.optim.AdamW(loop.models[0].parameters(), lr=1e-3)]
    loop.step()
    return loop


def saved(model: nn.Module) -> list[nn.Module]:
    """What a script makes of its model: a copy, a pickled one, a checkpoint of it as a whole."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]


def ours(value: object) -> bool:
    """Whether something on a module is perfdoc's."""
    modules = (type(value).__module__, getattr(value, "__module__", None) or "")
    return any(module.split(".")[0] in ("perfdoc", "perfdoc_probes") for module in modules)


def on_modules(model: nn.Module) -> list[object]:
    """Hooks of all modules, and what stands in place of a method in their own attributes."""
    return [found for module in model.modules()
            for found in [*module._forward_hooks.values(), *module._forward_pre_hooks.values(),
                          *module._backward_hooks.values(), *filter(callable, vars(module).values())]]


def check(loop: Loop) -> None:
    (model,) = loop.models
    optimizer = loop.optimizers[0]
    assert len(copy.deepcopy(optimizer).state) == len(pickle.loads(pickle.dumps(optimizer)).state) == len(optimizer.state)
    x = torch.randn(2, 3, 8, 8)
    for one in saved(model):
        assert not [found for found in on_modules(one) if ours(found)]
        assert one(x).shape == (2, 4)


@pytest.mark.parametrize("probe", [probe for probe in discover(Probe, packages()) if type(probe).prepare is not Probe.prepare],
                         ids=lambda probe: probe.slug)
def test_a_model_is_copied_and_saved_while_a_probe_watches(probe: Probe, loop: Loop) -> None:
    """Before a step that is watched and after it: the copies have nothing of perfdoc's, and work."""
    probe.prepare(loop)
    try:
        check(loop)
        loop.step()
        check(loop)
    finally:
        probe.measure(loop, {})
    assert not [found for found in on_modules(loop.models[0]) if ours(found)]


@pytest.mark.parametrize("slug", sorted(treatment.slug for treatment in discover(Treatment, packages())))
def test_a_model_is_copied_and_saved_under_a_treatment(slug: str, loop: Loop) -> None:
    """At every level that is offered here."""
    treatment = next(one for one in discover(Treatment, packages()) if one.slug == slug)
    for level in treatment.offer(loop).levels:
        treatment.apply(loop, level.name)
        try:
            check(loop)
        finally:
            treatment.restore(loop)


def test_what_reads_the_file_needs_no_perfdoc() -> None:
    """A hook that was saved is a function of the standard library that takes anything and returns nothing."""
    read = pickle.loads(pickle.dumps(Unsaved(lambda *args: 1 / 0)))
    assert (type(read), read.func) == (functools.partial, sys.audit)
    assert read("module", (1,), [2]) is None


def test_a_forward_of_the_scripts_own_is_what_a_copy_gets() -> None:
    """Where the script had put a forward of its own into the module, that one is saved; else the method of the class."""
    layer = nn.Linear(2, 2)
    layer.forward = torch.relu
    layer.__dict__["forward"] = UnsavedForward(lambda x: 1 / 0, layer, layer.forward)
    assert copy.deepcopy(layer).forward is torch.relu
    plain = nn.Linear(2, 2)
    plain.__dict__["forward"] = UnsavedForward(lambda x: 1 / 0, plain)
    for one in saved(plain):
        assert one.forward.__self__ is one
        assert one(torch.ones(2)).tolist() == nn.Linear.forward(plain, torch.ones(2)).tolist()
