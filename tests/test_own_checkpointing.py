"""The script's own checkpointing: found with its line, switched off within memory, and given back."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import builders
import pytest
import torch
import torch.utils.checkpoint as checkpointing
from perfdoc_probes.own_checkpointing import GENERATORS, REENTRANT, OwnCheckpointing
from test_rules import findings, make
from torch import nn
from torch.utils.checkpoint import checkpoint

from perfdoc.core.measurement import Measurement
from perfdoc.inject.observe.switched_on import users_lines

FILE = "/project/train.py"
DIRECT = """
from torch.utils.checkpoint import checkpoint

def train(steps=1):
    for n in range(steps):
        y = checkpoint(block, x, use_reentrant=reentrant)
        y.sum().backward()
"""
BY_LIBRARY = """
model.gradient_checkpointing_enable(dict(use_reentrant=False))
other.gradient_checkpointing = False

def train():
    model(x).sum().backward()
"""


class Loop:
    """A loop of one process on the CPU."""

    device, ranks = "cpu", 1


class Block(nn.Module):
    """Counts its calls, and has dropout."""

    def __init__(self, width=64):
        super().__init__()
        self.calls = 0
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.5), nn.Linear(width, width))

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


LIBRARY = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(4, 4)

    def gradient_checkpointing_enable(self, options):
        self.call = functools.partial(checkpoint, **options)

    def forward(self, x):
        return self.call(self.block, x)
"""


def library_model():
    """A model that keeps a reference to the function, as those of transformers do; its file is a library's."""
    names = {"checkpoint": checkpoint, "functools": functools, "nn": nn}
    exec(compile(LIBRARY, "/usr/lib/python3/site-packages/library.py", "exec"), names)
    return names["Model"]()


def script(reentrant=False, rows=8):
    """The script's names, as if they stood in the user's file."""
    torch.manual_seed(0)
    names = {"block": Block(), "x": torch.randn(rows, 64, requires_grad=True), "reentrant": reentrant}
    exec(compile(DIRECT, FILE, "exec"), names)
    return names


@pytest.fixture
def treatment():
    """Taken back whatever happens."""
    made = OwnCheckpointing()
    yield made
    made.restore(Loop())


def having_seen(treatment, names):
    end = treatment.sense(Loop())
    try:
        names["train"]()
    finally:
        end()
    return treatment.offer(Loop())


def a_step(treatment, names):
    """A step with the hooks that the session calls."""
    y = checkpoint(names["block"], names["x"], use_reentrant=names["reentrant"])
    treatment.on_backward(y.sum()).backward()
    treatment.on_optimizer(None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_line_of_a_direct_call_is_named(treatment, reentrant):
    """Both kinds are seen, once a call, with the user's line."""
    offer = having_seen(treatment, script(reentrant))
    assert offer.status == "offered"
    assert offer.site == f"{FILE}:6"
    assert sum(treatment._seen.values()) == 1


def test_the_line_that_switches_it_on_is_named(treatment, tmp_path, monkeypatch):
    """Where a library checkpoints, the place is that where the script asks it to."""
    file = tmp_path / "train.py"
    file.write_text(BY_LIBRARY)
    module = ModuleType("train_of_the_test")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "train_of_the_test", module)
    vars(module).update(model=library_model(), other=nn.Module(), x=torch.randn(2, 4, requires_grad=True))
    exec(compile(BY_LIBRARY, str(file), "exec"), vars(module))
    offer = having_seen(treatment, vars(module))
    assert offer.site == f"{file}:2"
    assert f"by the call at {file}:6; switched on at {file}:2" in offer.reason


def test_options_that_switch_it_on(tmp_path, monkeypatch):
    """Keywords and attributes count where they are not False; other methods and unreadable files do not."""
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("Arguments(\n  gradient_checkpointing=True,\n)\nconfig.gradient_checkpointing = flag\n"
                    "Arguments(gradient_checkpointing=False)\nmodel.eval()\n")
    bad.write_text("def (")
    for file in (good, bad):
        module = ModuleType(file.stem)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, f"test_options_{file.stem}", module)
    found = users_lines(("enable",), ("gradient_checkpointing",))
    assert [line for line in found if line.startswith(str(tmp_path))] == [f"{good}:2", f"{good}:4"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_is_computed_once_with_the_same_numbers(treatment, reentrant):
    """Under it a block runs once a step, and gradients are those of checkpointing, dropout included."""
    names, gradients = script(reentrant), []
    for on in (False, True, True):
        if on:
            treatment.apply(Loop(), "off")
        names["block"].calls, names["x"].grad = 0, None
        torch.manual_seed(1)
        a_step(treatment, names)
        gradients.append(names["x"].grad)
        assert names["block"].calls == (1 if on else 2)
        treatment.restore(Loop())
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_kept_is_counted(treatment, reentrant):
    """In the first step, the bytes that the block keeps: its result, tanh's, dropout's and their inputs, not its weights."""
    names = script(reentrant)
    treatment.apply(Loop(), "off")
    a_step(treatment, names)
    treatment.restore(Loop())
    kept, free = treatment.measurements(Loop())
    row = 8 * 64 * 4
    assert 3 * row <= kept.samples[0] <= 6 * row
    assert free.samples[0] > 0


def test_micro_batches_are_not_added_up(treatment):
    """Two backward passes before the optimizer's step keep what one keeps."""
    names, kept = script(), []
    treatment.apply(Loop(), "off")
    for _ in range(2):
        names["train"]()
        treatment.on_backward(None)
        kept.append(treatment._peak)
    assert kept[0] == kept[1] > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_it_is_given_up_before_memory_is_short(treatment, reentrant, monkeypatch):
    """Where a block keeps more than half of what is free, that is an error of memory, and nothing stays behind."""
    monkeypatch.setattr("perfdoc_probes.own_checkpointing.free_memory", lambda: 4000)
    names = script(reentrant)
    treatment.apply(Loop(), "off")
    with pytest.raises(MemoryError, match="MiB are free"):
        a_step(treatment, names)
    treatment.restore(Loop())
    names["block"].calls = 0
    names["train"]()
    assert names["block"].calls == 2
    assert treatment.measurements(Loop()) == []


def test_larger_inputs_stay_checkpointed(treatment):
    """A batch that is larger than those that were gauged is computed twice, as the script wants it."""
    names = script()
    treatment.apply(Loop(), "off")
    a_step(treatment, names)
    for rows, calls in ((8, 1), (9, 1), (20, 2)):
        names["x"], names["block"].calls = torch.randn(rows, 64, requires_grad=True), 0
        a_step(treatment, names)
        assert names["block"].calls == calls


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_block_that_fails_leaves_no_gauge_behind(treatment, reentrant):
    """The block's own exception reaches the script, and operators are not watched any more."""
    names = script(reentrant)

    def fails(x):
        torch.sin(x)
        raise KeyError("the block's own")

    treatment.apply(Loop(), "off")
    with pytest.raises(KeyError, match="own"):
        checkpoint(fails, names["x"], use_reentrant=reentrant)
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    a_step(treatment, names)
    assert treatment._peak > 0


def test_nothing_stays(treatment):
    """Torch's module is as before, after the look and after the change."""
    parts = [*GENERATORS, REENTRANT, "_get_autocast_kwargs"]
    before = {name: getattr(checkpointing, name, None) for name in parts}
    names = script()
    having_seen(treatment, names)
    treatment.apply(Loop(), "off")
    treatment.restore(Loop())
    treatment.restore(Loop())
    assert {name: getattr(checkpointing, name, None) for name in parts} == before


def test_a_loop_without_it_and_one_of_several_ranks_are_left_alone(treatment):
    """Nothing to offer; and no rank runs out of memory alone."""
    assert treatment.offer(Loop()).status == "not applicable"
    loop = Loop()
    having_seen(treatment, script())
    loop.ranks = 2
    assert "ranks" in treatment.offer(loop).reason


def test_the_finding_says_what_memory_it_costs():
    """PD325: the line, the effect, the activations kept, and what is free."""
    change = "leaving out the activation checkpointing of train.py:35"
    offers = [builders.offer("own_checkpointing", ("off", change), site="train.py:35")]
    found = findings(make({"own_checkpointing=off": 1.4}, offers=offers, measurements=[
        Measurement("checkpointing.kept", "B", (31.0 * 2**20,)), Measurement("checkpointing.free", "B", (9000.0 * 2**20,)),
    ]))["PD325"]
    assert (found.where, found.verdict) == ("train.py:35", "helps")
    assert "without it a step keeps 31 MiB of activations at most; 8.79 GiB are free" in found.evidence
