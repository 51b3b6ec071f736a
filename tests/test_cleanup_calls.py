"""Collections and waits that a script asks for in every step: found with their lines, left out, and given back."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import builders
import pytest
import torch
from perfdoc_probes.cleanup_calls import CALLS, CleanupCalls
from test_rules import findings, make
from torch import nn

from perfdoc.core.measurement import Measurement

SCRIPT = """
import gc
from gc import collect

def tidy():
    gc.collect()
    torch.cuda.empty_cache()

def train(steps, by_name=False):
    gc.collect()
    for n in range(steps):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        if by_name:
            collect()
        else:
            tidy()
        if n == 3:
            gc.collect(0)
"""
FILE = "/project/train.py"


class Loop:
    """A loop with quick steps."""

    device, ranks, step_seconds = "cpu", 1, 1e-6


@pytest.fixture
def script():
    """The script's module, as if it had been imported."""
    module = ModuleType("train_of_the_test")
    module.__file__ = FILE
    model = nn.Linear(2, 2)
    vars(module).update(torch=torch, model=model, x=torch.ones(1, 2), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    sys.modules["train_of_the_test"] = module
    exec(compile(SCRIPT, FILE, "exec"), vars(module))
    yield module
    del sys.modules["train_of_the_test"]


def having_seen(script, *arguments):
    """The treatment after it has watched some steps, and what it offers."""
    treatment = CleanupCalls()
    end = treatment.sense(Loop())
    script.train(*arguments)
    end()
    return treatment, treatment.offer(Loop())


@pytest.fixture
def collections():
    """Full collections that were really made, counted by Python itself."""
    made = []

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            made.append(info)

    gc.collect()
    gc.callbacks.append(note)
    yield made
    gc.callbacks.remove(note)


def test_the_lines_of_every_step_are_named(script):
    """The call with the line in the loop that leads to it; what is called before the loop, or once, is not."""
    _, offer = having_seen(script, 8)
    assert offer.status == "offered"
    assert offer.site == f"{FILE}:6"
    change = offer.levels[0].change
    assert f"gc.collect() at {FILE}:6, called from {FILE}:18" in change
    assert f"torch.cuda.empty_cache() at {FILE}:7" in change
    assert f"{FILE}:10" not in change
    assert f"{FILE}:20" not in change
    assert "1.1 a step" in offer.reason  # of eight steps seven are whole
    assert "objects to free" in offer.reason


def test_what_is_imported_by_name_is_seen_and_left_out(script, collections):
    """``from gc import collect`` of before is replaced in the user's module as well, and put back."""
    original = script.collect
    treatment, offer = having_seen(script, 4, True)
    assert offer.site == f"{FILE}:16"
    assert script.collect is original is gc.collect
    treatment.apply(Loop(), "off")
    collections.clear()
    script.train(3, True)
    assert not collections
    treatment.restore(Loop())
    assert script.collect is original is gc.collect


def test_nothing_is_collected_while_it_is_off(script, collections):
    """Steps under the treatment make no collection; after it the script's own calls collect as before."""
    treatment, _ = having_seen(script, 4)
    before = [getattr(owner, name) for owner, name, _ in CALLS]
    collections.clear()
    treatment.apply(Loop(), "off")
    script.train(3)
    assert not collections
    treatment.restore(Loop())
    assert len(collections) == 1
    assert [getattr(owner, name) for owner, name, _ in CALLS] == before
    script.train(3)
    assert len(collections) == 1 + 4


def test_a_librarys_calls_are_its_own(script, collections):
    """A collection that a library makes on the script's behalf is made."""
    library = {}
    exec(compile("import gc\ndef release(): gc.collect()", "/usr/lib/python3/site-packages/lib.py", "exec"), library)
    treatment = CleanupCalls()
    treatment.apply(Loop(), "off")
    collections.clear()
    library["release"]()
    assert len(collections) == 1
    treatment.restore(Loop())


def test_what_piles_up_is_collected_after_all(script, collections, monkeypatch):
    """Where memory grows by more than it may, the call is made, and that is said."""
    treatment, _ = having_seen(script, 4)
    used = iter(range(0, 100 * 2**30, 3 * 2**29))
    monkeypatch.setattr(treatment, "_used", lambda: next(used))
    treatment.apply(Loop(), "off")
    collections.clear()
    script.train(3)
    assert len(collections) == 4
    treatment.restore(Loop())
    treatment._objects.append(0.0)
    assert treatment.measurements(Loop())[1].samples == (4.0,)


def test_without_pythons_own_collections_objects_are_bounded(script, collections, monkeypatch):
    """A script that switched automatic collection off and collects by hand still collects when many objects are new."""
    monkeypatch.setattr("perfdoc_probes.cleanup_calls.MOST_OBJECTS", 500)
    treatment = CleanupCalls()
    gc.disable()
    try:
        treatment.apply(Loop(), "off")
        collections.clear()
        kept = [[] for _ in range(1000)]
        script.tidy()
        assert len(collections) == 1
        script.tidy()
        assert len(collections) == 1
        assert len(kept) == 1000
    finally:
        treatment.restore(Loop())
        gc.enable()


def test_cycles_are_counted_at_the_end(script):
    """Objects that only a collection frees are found when the treatment ends, and told."""
    treatment = CleanupCalls()
    treatment.apply(Loop(), "off")
    for _ in range(10):
        cycle = []
        cycle.append(cycle)
    script.tidy()
    treatment.restore(Loop())
    assert treatment.measurements(Loop())[0].samples[0] >= 9


def test_what_takes_no_time_is_not_tried(script, monkeypatch):
    """A line whose calls take less than half a percent of the step is left; not so a wait, whose cost is another."""
    treatment, _ = having_seen(script, 8)
    loop = Loop()
    loop.step_seconds = 1e6
    assert treatment.offer(loop).status == "not applicable"
    for called in treatment._seen.values():
        called.call = CALLS[2][2]
    assert treatment.offer(loop).status == "offered"


def test_a_script_without_such_calls_is_left_alone(script):
    """Nothing is offered where no line of the step collects."""
    script.tidy = lambda: None
    assert having_seen(script, 8)[1].status == "not applicable"


def test_the_finding_names_the_line_and_what_was_freed():
    """PD324: the line, the effect, that there was nothing to free; and that memory grew, where it did."""
    change = "leaving out gc.collect() at train.py:33, called from train.py:64"
    offers = [builders.offer("cleanup_calls", ("off", change), reason="what was seen", site="train.py:33")]
    found = findings(make({"cleanup_calls=off": 1.5}, offers=offers, measurements=[
        Measurement("cleanup.objects", "count", (0.0, 3.0)), Measurement("cleanup.needed", "count", (0.0,)),
    ]))["PD324"]
    assert found.where == "train.py:33"
    assert found.verdict == "helps"
    assert found.title.startswith(f"{change} makes the step 1.5")
    assert "what was seen" in found.evidence
    assert any("found 3 objects to free" in line for line in found.evidence)
    assert not any("memory grew" in line for line in found.evidence)
    grown = findings(make({"cleanup_calls=off": 1.5}, offers=offers, measurements=[
        Measurement("cleanup.objects", "count", (9.0,)), Measurement("cleanup.needed", "count", (2.0,)),
    ]))["PD324"]
    assert any("memory grew without it: 2 collections" in line for line in grown.evidence)
