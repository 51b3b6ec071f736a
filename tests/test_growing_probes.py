"""What keeps graphs, which lists grow, what data sets hold in objects: found and named in loops whose truth is known."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import UserList, defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from perfdoc_probes import retained_graph
from perfdoc_probes.dataset_objects import DatasetObjects
from perfdoc_probes.growing_lists import GrowingLists
from perfdoc_probes.retained_graph import RetainedGraph
from torch.utils.data import Dataset, Subset

from perfdoc.core.measurement import Measurement
from perfdoc.inject.observe.holders import holders_of

LOOP: Any = SimpleNamespace(loaders=[], optimizers=[], device="cpu")
kept_globally: list[Any] = []


class Meter:
    """Keeps a sum and its mean, as meters do."""

    def __init__(self) -> None:
        self.val = self.sum = self.avg = 0
        self.count = 0

    def update(self, val: Any, n: int = 1) -> None:
        self.val = val
        self.sum = self.sum + val * n
        self.count += n
        self.avg = self.sum / self.count


class Collector:
    """Collects outputs in lists of an object's own."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def add(self, output: Any) -> None:
        self.outputs.append(output)


def line_of(what: Any, text: str) -> str:
    """``tests/file:line`` of the first line of an object's source with this text."""
    lines, first = inspect.getsourcelines(what)
    return f":{first + next(i for i, line in enumerate(lines) if text in line)}"


def measured(found: list[Any], metric: str) -> list[Measurement]:
    return [m for m in found if isinstance(m, Measurement) and m.metric == metric]


WEIGHT = torch.ones(5, requires_grad=True)


def loss() -> Any:
    return (WEIGHT * WEIGHT).sum()


# -- graphs


def feeds_a_meter(steps: int, probe: RetainedGraph, watched: list[int]) -> list[Any]:
    meter, losses = Meter(), Meter()
    found: list[Any] = []
    for step in range(steps):
        if step in watched:
            probe.prepare(LOOP)
        value = loss()
        value.backward()
        losses.update(value.item())
        meter.update((WEIGHT * 3).mean(), 2)
        if step in watched:
            found += probe.measure(LOOP, {})
    return found


def test_the_meter_that_keeps_the_graph_is_named_with_its_line_and_the_line_that_feeds_it() -> None:
    """Of val, sum and avg it is the sum; of the two meters of the class the one that is fed with a graph."""
    method = Meter.update
    found = feeds_a_meter(20, RetainedGraph(), [10])
    holders = measured(found, "graph.holder")
    assert holders[-1].conditions["name"] == "Meter.sum"
    assert str(holders[-1].conditions["site"]).endswith(line_of(Meter.update, "self.sum ="))
    assert str(holders[-1].conditions["fed"]).endswith(line_of(feeds_a_meter, "meter.update((WEIGHT"))
    for before, after in (m.samples for m in measured(found, "graph.nodes")):
        assert after > before
    assert Meter.update is method


class Tracker:
    """Collects every number in a list of its own, as trackers do."""

    def __init__(self) -> None:
        self.values: Any = defaultdict(list)

    def add(self, **numbers: Any) -> None:
        for name, number in numbers.items():
            self.values[name].append(number)


def feeds_a_tracker(steps: int, probe: RetainedGraph) -> list[Any]:
    tracker = Tracker()
    found: list[Any] = []
    for step in range(steps):
        if step == steps - 1:
            probe.prepare(LOOP)
        tracker.add(loss=1.0, distance=loss())
        if step == steps - 1:
            found = probe.measure(LOOP, {})
    return found


def test_a_tracker_of_lists_by_name_is_named_with_the_line_that_feeds_it() -> None:
    """Lists in a defaultdict in an attribute, filled in a method: the attribute, its line, and the line of the loop."""
    (holder,) = measured(feeds_a_tracker(20, RetainedGraph()), "graph.holder")
    assert holder.conditions["name"] == "Tracker.values"
    assert str(holder.conditions["site"]).endswith(line_of(Tracker, "self.values[name].append"))
    assert str(holder.conditions["fed"]).endswith(line_of(feeds_a_tracker, "tracker.add("))


def adds_up(steps: int, probe: RetainedGraph) -> list[Any]:
    total: Any = 0
    found: list[Any] = []
    for step in range(steps):
        if step == steps - 1:
            probe.prepare(LOOP)
        total = total + loss()
        if step == steps - 1:
            found = probe.measure(LOOP, {})
    assert total.requires_grad
    return found


def appends(steps: int, probe: RetainedGraph) -> list[Any]:
    history: Any = deque()
    found: list[Any] = []
    for step in range(steps):
        if step == steps - 1:
            probe.prepare(LOOP)
        history.append({"loss": loss()})
        if step == steps - 1:
            found = probe.measure(LOOP, {})
    return found


@pytest.mark.parametrize(("loop", "name", "text"), [
    (adds_up, "total", "total = total"), (appends, "history", "history.append")])
def test_a_variable_that_keeps_graphs_is_named(loop: Any, name: str, text: str) -> None:
    """A sum in a function's variable, and a list of dictionaries: the line that fills it."""
    (holder,) = measured(loop(20, RetainedGraph()), "graph.holder")
    assert holder.conditions["name"] == name
    assert str(holder.conditions["site"]).endswith(line_of(loop, text))


def test_a_loss_that_is_overwritten_keeps_nothing() -> None:
    """The count does not grow, and nobody is named."""
    probe, value = RetainedGraph(), loss()
    for _ in range(3):
        probe.prepare(LOOP)
        value = loss()
        value.backward()
        found = probe.measure(LOOP, {})
        assert not measured(found, "graph.holder")
        for before, after in (m.samples for m in measured(found, "graph.nodes")):
            assert after <= before


def test_a_graph_that_is_larger_in_every_step_is_not_kept() -> None:
    """An adaptive solver takes more evaluations from step to step: its graph grows, and goes with its variable."""
    probe, best = RetainedGraph(), loss()
    for step in range(3, 9):
        watched = step > 4
        if watched:
            probe.prepare(LOOP)
        value = WEIGHT
        for _ in range(step):
            value = value * WEIGHT
        value.sum().backward()
        if not watched:
            continue
        found = probe.measure(LOOP, {})
        assert not measured(found, "graph.holder")
        (nodes,) = measured(found, "graph.nodes")
        assert nodes.samples[1] <= nodes.samples[0]
    assert best.requires_grad


def test_graphs_too_large_to_be_counted_are_seen_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most nodes that are counted, those of the step come on top; the holder is found as before."""
    monkeypatch.setattr(retained_graph, "LONGEST", 20)
    found = adds_up(30, RetainedGraph())
    (nodes,) = measured(found, "graph.nodes")
    assert nodes.samples == (20, 24)
    (holder,) = measured(found, "graph.holder")
    assert holder.conditions["name"] == "total"


# -- lists


def test_lists_that_grow_are_named_with_their_entries_and_bytes() -> None:
    """An attribute's, a global and a variable's; one that does not grow, and one that only libraries hold, are not."""
    collector, still, numbers = Collector(), [0] * 50, {n: [n] for n in range(50)}
    collector.outputs += [torch.zeros(256)] * 50
    kept_globally[:] = range(50)
    hidden = weakref.WeakValueDictionary()  # type: ignore[var-annotated]
    hidden.update({n: torch.zeros(1) for n in range(50)})
    probe = GrowingLists()
    probe.prepare(LOOP)
    for n in range(2):
        collector.add(torch.zeros(256))
        kept_globally.append(n)
        numbers[100 + n] = [n]
    found = probe.measure(LOOP, {})
    grown = {str(m.conditions["name"]): m for m in measured(found, "lists.growing")}
    assert set(grown) == {"Collector.outputs", "kept_globally", "numbers"}
    assert {m.samples for m in grown.values()} == {(2.0,)}
    assert str(grown["Collector.outputs"].conditions["site"]).endswith(line_of(Collector.add, "append"))
    sizes = {str(m.conditions["name"]): m.samples[0] for m in measured(found, "lists.grown")}
    assert 2 * 1024 <= sizes["Collector.outputs"] < 4096
    assert sizes["numbers"] < 400
    assert len(still) == 50


def mean_of_all(steps: int, probe: GrowingLists) -> list[Any]:
    """Appends in its loop, and reads the list there and afterwards."""
    history: list[float] = []
    found: list[Any] = []
    for step in range(steps):
        if step == steps - 1:
            probe.prepare(LOOP)
        history.append(float(step))
        mean = sum(history) / (step + 1)
        if step == steps - 1:
            found = probe.measure(LOOP, {})
    assert max(history) > mean
    return found


def test_the_line_that_reads_a_list_in_its_loop_is_told() -> None:
    """It is where the time goes: not the line that appends, nor what reads the list once the loop has ended."""
    (grown,) = measured(mean_of_all(20, GrowingLists()), "lists.growing")
    assert grown.conditions["name"] == "history"
    assert str(grown.conditions["read"]).endswith(line_of(mean_of_all, "mean = sum(history)"))


def test_an_object_of_a_library_that_collects_is_named_by_its_variable() -> None:
    """A metric of a library keeps a list of its own: the variable that it is in, and the line that adds to it."""
    metric = UserList([torch.zeros(9)] * 9)
    probe = GrowingLists()
    probe.prepare(LOOP)
    metric.append(torch.zeros(9))
    (grown,) = measured(probe.measure(LOOP, {}), "lists.growing")
    assert grown.conditions["name"] == "metric"
    place = line_of(test_an_object_of_a_library_that_collects_is_named_by_its_variable, "metric.append(")
    assert str(grown.conditions["site"]).endswith(place)


# -- looking leaves no traces


def test_asking_for_holders_keeps_nothing_alive_and_changes_no_variable() -> None:
    """What a variable held is freed when it is overwritten, and a dictionary that locals() gave to the user stays theirs."""
    value: Any = loss()
    gone = weakref.ref(value)
    assert "value" in {holder.name for _, holder in holders_of([value])}
    value = None
    assert gone() is None

    def with_locals() -> Any:
        first = 1
        mine = locals()
        kept = loss()
        list(holders_of([kept]))
        return first, mine, kept

    first, mine, _ = with_locals()
    assert first == 1
    assert mine["first"] == 1


def test_holders_are_found_through_containers_and_not_beyond() -> None:
    """A tensor in a dictionary in a list is held by the list's name; one that nobody's variable holds has no holder."""
    collector = Collector()
    tensor = torch.zeros(3)
    collector.add({"deep": tensor})
    names = {holder.name for value, holder in holders_of([collector.outputs[0]["deep"]]) if value is tensor}
    assert names == {"Collector.outputs", "tensor"}
    assert sys.getrefcount(tensor) < 8


# -- data sets


class Captions(Dataset[Any]):
    """Annotations as dictionaries, and numbers in a tensor."""

    def __init__(self, count: int) -> None:
        self.annotations = [{"id": n, "caption": f"a picture of {n}", "box": [n, n + 1.5]} for n in range(count)]
        self.features = torch.zeros(count, 4)
        self.table = [None] * count

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Any:
        annotation = self.annotations[index]
        return annotation["id"]


def of_dataset(dataset: Any) -> list[Any]:
    loop: Any = SimpleNamespace(loaders=[SimpleNamespace(loader=SimpleNamespace(dataset=dataset))])
    return DatasetObjects().measure(loop, {})


def test_the_objects_of_a_data_set_are_counted_by_attribute() -> None:
    """10,000 dictionaries with five objects in each, behind a subset: its name, what it is, where it is made and read."""
    found = of_dataset(Subset(Captions(10_000), range(5)))
    (objects,) = measured(found, "dataset.objects")
    assert objects.conditions["name"] == "Captions.annotations"
    assert objects.conditions["kind"] == "a list of 10,000 dicts"
    assert str(objects.conditions["made"]).endswith(line_of(Captions.__init__, "self.annotations ="))
    assert str(objects.conditions["read"]).endswith(line_of(Captions.__getitem__, "self.annotations[index]"))
    assert objects.samples[0] == pytest.approx(50_000, rel=0.1)
    (size,) = measured(found, "dataset.object_memory")
    assert 3 * 2**20 < size.samples[0] < 10 * 2**20


def test_few_objects_and_the_same_object_again_and_again_are_not_told() -> None:
    """A small list, a tensor, and a long list of one None take no memory in a worker."""
    assert measured(of_dataset(Captions(1000)), "dataset.objects") == []
    big = Captions(10)
    big.table = [None] * 10**6
    assert measured(of_dataset(big), "dataset.objects") == []
