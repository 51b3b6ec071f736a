"""The cost of one host-device sync: its place is answered from memory, all others are read as ever."""

from __future__ import annotations

import pytest
import torch
from perfdoc_probes.sync_removal import SyncRemoval

from perfdoc.inject.observe.device_reads import READS, Place, place_of, wrap_reads

SCRIPT = """
def step(value):
    losses.append(value.item())
    other.append(float(value))
    whole.append(value.expand(3).cpu())
    if value > 0: positive.append(1)
"""
FILE = "/project/train.py"


class Loop:
    """A loop whose tensors live on the CPU, taken for the device."""

    device, ranks = "cpu", 1


def script():
    names = {"losses": [], "other": [], "whole": [], "positive": []}
    exec(compile(SCRIPT, FILE, "exec"), names)
    return names


def having_seen(*places):
    """The treatment after it has seen these lines read values, the first one most often."""
    made = SyncRemoval()
    made.reads = dict(zip(places, range(len(places) + 2, 2, -1), strict=True))
    return made


@pytest.fixture
def treatment():
    """Applied to the line with ``.item()``; taken back whatever happens."""
    made = having_seen(Place(FILE, 3, "item", "train.py:3"), Place(FILE, 5, "cpu", "train.py:5"))
    made.apply(Loop(), "place1")
    yield made
    made.restore(Loop())


def test_the_place_gets_its_first_value_again_and_others_read(treatment):
    """One line goes on with the value that was really read; another line of the same function sees every value."""
    names = script()
    for value in (1.0, 2.0, 3.0):
        names["step"](torch.tensor(value))
    assert names["losses"] == [1.0, 1.0, 1.0]
    assert names["other"] == [1.0, 2.0, 3.0]
    assert [tensor[0].item() for tensor in names["whole"]] == [1.0, 2.0, 3.0]
    assert names["positive"] == [1, 1, 1]


def test_a_loop_that_waits_for_a_value_sees_it_change(treatment):
    """No more calls of a step are answered from memory than were observed; the next step begins to count anew."""
    names = script()
    for value in range(6):
        names["step"](torch.tensor(float(value)))
    assert names["losses"] == [0.0, 0.0, 0.0, 0.0, 4.0, 5.0]
    treatment.on_optimizer(None)
    names["step"](torch.tensor(9.0))
    assert names["losses"][-1] == 0.0


def test_tensors_that_are_given_back_can_be_written_to():
    """A script that writes into the copy it got does not change what it gets next time."""
    names, made = script(), having_seen(Place(FILE, 5, "cpu", "train.py:5"))
    made.apply(Loop(), "place1")
    try:
        names["step"](torch.tensor(4.0))
        names["whole"][0].zero_()
        names["step"](torch.tensor(5.0))
    finally:
        made.restore(Loop())
    assert names["whole"][1].tolist() == [4.0, 4.0, 4.0]


def test_torch_is_as_before_afterwards():
    """No wrapper stays on the tensor's methods."""
    before = {name: torch.Tensor.__dict__.get(name) for name in READS}
    made = having_seen(Place(FILE, 3, "item", "train.py:3"))
    made.apply(Loop(), "place1")
    assert torch.Tensor.__dict__.get("item") is not before["item"]
    made.restore(Loop())
    assert {name: torch.Tensor.__dict__.get(name) for name in READS} == before


def test_places_are_the_users_own_lines():
    """What a library reads on behalf of the user's line is that line's."""
    seen = []

    def note(method, tensor, really, frame):
        seen.append(place_of(method, frame))
        return really()

    release = wrap_reads(note)
    try:
        script()["step"](torch.tensor(1.0))
    finally:
        release()
    assert [(place.line, place.call) for place in seen] == [
        (3, ".item()"), (4, "float(tensor)"), (5, ".cpu()"), (6, "bool(tensor)"),
    ]


class Card(Loop):
    """A loop on a GPU."""

    device = "cuda"


def test_the_busiest_places_are_offered_on_a_gpu():
    """Three places at most, those with the most calls first; on a CPU it says where it can be tested."""
    places = [Place(FILE, line, "item", f"train.py:{line}") for line in (3, 4, 5, 6)]
    offer = having_seen(*places).offer(Card())
    assert [level.change for level in offer.levels] == [f"no wait at train.py:{line} (.item())" for line in (3, 4, 5)]
    assert having_seen(*places).offer(Loop()).status == "untestable here"
    assert SyncRemoval().offer(Card()).status == "not applicable"
