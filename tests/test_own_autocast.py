"""The script's own autocast: found with its lines, switched off, and given back in the midst of a block too."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.utils.checkpoint
from perfdoc_probes.own_autocast import OwnAutocast
from torch import nn

FILE = "/project/train.py"
SCRIPT = """
def build(enabled=True):
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)

def train(precision, steps=1):
    for n in range(steps):
        with precision:
            out = model(x)
        out.sum().backward()
    return out.dtype

def in_place():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        with torch.autocast("cpu", enabled=False):
            exact = model(x)
        again = model(x)
    return out.dtype, exact.dtype, again.dtype

@torch.autocast("cpu", dtype=torch.bfloat16)
def decorated():
    return model(x).dtype

def evaluate():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x).dtype
"""


class Loop:
    """A loop on the CPU."""

    device, ranks = "cpu", 1


@pytest.fixture
def script():
    """The script's functions, as if they stood in the user's file."""
    names = {"torch": torch, "model": nn.Linear(4, 4), "x": torch.randn(2, 4)}
    exec(compile(SCRIPT, FILE, "exec"), names)
    return names


@pytest.fixture
def treatment():
    """Taken back whatever happens."""
    made = OwnAutocast()
    yield made
    made.restore(Loop())


def having_seen(treatment, *calls):
    end = treatment.sense(Loop())
    try:
        for call in calls:
            call()
    finally:
        end()
    return treatment.offer(Loop())


def test_the_line_that_makes_it_and_the_line_that_enters_it_are_named(script, treatment):
    """A block that is made in one place and entered in another has both lines; the first is where it is changed."""
    offer = having_seen(treatment, lambda: script["train"](script["build"](), 3))
    assert offer.status == "offered"
    assert offer.site == f"{FILE}:3"
    assert offer.levels[0].change == f"leaving out torch.autocast at {FILE}:3, entered at {FILE}:7"


def test_a_block_in_place_has_one_line(script, treatment):
    """``with torch.autocast(...)`` in the loop, beside a block that the script disables itself."""
    offer = having_seen(treatment, script["in_place"])
    assert offer.levels[0].change == f"leaving out torch.autocast at {FILE}:13"


@pytest.mark.parametrize("source", ["Trainer(bf16=True)\n", "Trainer(bf16=False)\n"])
def test_the_autocast_of_a_library(script, treatment, source, tmp_path, monkeypatch):
    """Where a library makes the block, the place is that of the option that asks for it, or else the call that leads there."""
    library = {"torch": torch, "model": script["model"], "x": script["x"]}
    body = "def fit():\n    with torch.autocast('cpu', dtype=torch.bfloat16): model(x).sum().backward()\n"
    exec(compile(body, "/usr/lib/python3/site-packages/library.py", "exec"), library)
    file = tmp_path / "options.py"
    file.write_text(source)
    module = ModuleType("options_of_the_test")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "options_of_the_test", module)
    exec(compile("def main(fit):\n    fit()\n", FILE, "exec"), script)
    offer = having_seen(treatment, lambda: script["main"](library["fit"]))
    asked = "True" in source
    assert offer.site == (f"{file}:1" if asked else f"{FILE}:2")
    said = f"asked for at {file}:1" if asked else f"entered by a library below {FILE}:2"
    assert offer.levels[0].change == f"leaving out the autocast {said}"


def test_what_checkpointing_enters_in_backward_is_no_block(script, treatment):
    """Parts that are computed again in backward enter autocast by themselves: the script's lines are those of the forward."""
    model = script["model"]
    script["x"].requires_grad_()
    script["model"] = lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    offer = having_seen(treatment, lambda: script["train"](script["build"](), 2))
    assert offer.levels[0].change == f"leaving out torch.autocast at {FILE}:3, entered at {FILE}:7"
    assert sum(treatment._seen.values()) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_no_mixed_precision_of_the_training_is_not_offered(script, treatment, device):
    """Disabled blocks, blocks of validation, and those of another device."""
    loop = Loop()
    loop.device = device
    calls = [lambda: script["train"](script["build"](False)), script["evaluate"]]
    having_seen(treatment, *calls, *([script["in_place"]] if device == "cuda" else []))
    assert treatment.offer(loop).status == "not applicable"


def test_it_computes_in_float32_and_then_as_before(script, treatment):
    """Blocks made before or in place, and decorators, are off under it, and on again after it."""
    made, methods = script["build"](), (torch.autocast.__enter__, torch.autocast.__exit__)
    treatment.apply(Loop(), "off")
    assert script["train"](made) is torch.float32
    assert set(script["in_place"]()) == {torch.float32}
    assert script["decorated"]() is torch.float32
    assert made._enabled
    treatment.restore(Loop())
    assert (torch.autocast.__enter__, torch.autocast.__exit__) == methods
    assert script["train"](made) is torch.bfloat16
    assert script["in_place"]() == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert script["decorated"]() is torch.bfloat16


def test_a_loop_inside_one_block(script, treatment):
    """A block around the whole loop is off from the next step on, on again after it, and left properly at its end."""
    model, x = script["model"], script["x"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype is torch.bfloat16
        treatment.apply(Loop(), "off")
        assert model(x).dtype is torch.float32
        treatment.restore(Loop())
        assert model(x).dtype is torch.bfloat16
        treatment.apply(Loop(), "off")
    treatment.restore(Loop())
    assert not torch.is_autocast_enabled("cpu")


def test_a_step_inside_one_block(script, treatment):
    """A block a step with the optimizer's step inside: changes come and go within blocks, and none stays on outside."""
    model, x = script["model"], script["x"]
    for switch in (lambda: treatment.apply(Loop(), "off"), lambda: treatment.restore(Loop())):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            switch()
        assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        treatment.apply(Loop(), "off")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype is torch.float32
        treatment.restore(Loop())
        assert model(x).dtype is torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_a_step_that_fails_inside_a_block_goes_on_as_the_script_wrote_it(script, treatment):
    """Taken back inside nested blocks, each of them computes from there on as it would have."""
    model, x = script["model"], script["x"]
    treatment.apply(Loop(), "off")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            treatment.restore(Loop())
            assert model(x).dtype is torch.float32
        assert model(x).dtype is torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    assert model(x).dtype is torch.float32


def test_a_scaler_goes_on(script, treatment):
    """Under it a GradScaler scales, unscales and steps, and the weights move by what float32 gives."""
    model, x = script["model"], script["x"]
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.5), torch.amp.GradScaler("cpu", init_scale=4.0)
    before = model.bias.detach().clone()
    treatment.apply(Loop(), "off")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x).sum()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert torch.allclose(model.bias, before - 0.5 * len(x))


def test_nothing_of_the_look_stays(script, treatment):
    """The class is as before, and contexts that were made meanwhile carry nothing."""
    before = dict(vars(torch.autocast))
    kept = []
    having_seen(treatment, lambda: kept.append(script["build"]()), lambda: script["train"](kept[0]))
    assert dict(vars(torch.autocast)) == before
    assert sorted(vars(kept[0])) == sorted(vars(script["build"]()) | {"prev": 0, "prev_cache_enabled": 0, "prev_fastdtype": 0})
