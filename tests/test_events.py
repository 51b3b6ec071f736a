"""Events of a run: what is written has a class, every class is written and read, lines of other versions are survived."""

from __future__ import annotations

import ast
import json
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from builders import block

import perfdoc
from perfdoc.capture import document as captures
from perfdoc.capture import events, incidents
from perfdoc.capture.event import Event, first, last, of
from perfdoc.capture.event_lines import KINDS, decode, from_entry, to_entry
from perfdoc.capture.incidents import ENVELOPE, Incident
from perfdoc.capture.settings import Settings
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.inject.system.recorder import Recorder

pytestmark = pytest.mark.any_python

ROOT = Path(perfdoc.__file__).parent
PROBES = Path(__import__("perfdoc_probes").__file__).parent
OF_STEP_LOG = {"step"}
"""Kinds that come from another kind of file."""


def sources() -> Iterator[tuple[Path, ast.Module]]:
    """Every module that could write or read an event, but those that define them."""
    defining = {ROOT / "capture" / name for name in ("event.py", "events.py", "incidents.py", "event_lines.py")}
    for file in [*ROOT.rglob("*.py"), *PROBES.rglob("*.py")]:
        if file not in defining:
            yield file, ast.parse(file.read_text(encoding="utf-8"))


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Calls of ``recorder.write`` that name a kind: ``write("kept", path=path)``."""
    for file, tree in sources():
        for node in ast.walk(tree):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write"
                    and "recorder" in ast.unparse(node.func.value) and node.args and isinstance(node.args[0], ast.Constant)):
                yield f"{file.name}:{node.lineno}", node


def parts(kind: type[Event]) -> dict[str, bool]:
    """Keys of an event's line, and whether each must be there."""
    own = {field.name: field for field in fields(kind) if field.name not in ENVELOPE}
    if "record" in own:
        record = typing.get_type_hints(kind)["record"]
        own = {field.name: field for field in fields(record) if field.name != "lap"}
    return {name: field.default is MISSING and field.default_factory is MISSING for name, field in own.items()}


def test_every_call_that_names_a_kind_has_its_class_and_its_fields() -> None:
    """What is written as ``write("kind", field=...)`` has a class with these fields, and none that it needs is missing."""
    found = list(calls())
    assert len(found) > 5
    for place, call in found:
        kind = KINDS.get(call.args[0].value)  # type: ignore[attr-defined]
        assert kind is not None, f"{place}: no class for {ast.unparse(call.args[0])}"
        given = {keyword.arg for keyword in call.keywords}
        known = parts(kind)
        assert given - {None} <= set(known), place
        if None not in given:  # with **fields it is known only when it runs
            assert {name for name, needed in known.items() if needed} <= given, place


def named(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Names of classes that a module makes instances of, and those that it uses in another way."""
    made, used = set(), set()
    callees = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    hints = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    annotations = {id(inner) for hint in hints if hint is not None for inner in ast.walk(hint)}
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if id(node) in callees:
            made.add(name)
        elif name and id(node) not in annotations:
            used.add(name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name) and id(node) in callees:
            made.add(getattr(node.value, "attr", getattr(node.value, "id", "")))  # Measured.of(...)
    return made, used


def test_every_event_is_written_and_read() -> None:
    """There is no class for what nobody writes, and nothing is written that nobody reads."""
    made: set[str] = set()
    used: set[str] = set()
    for _, tree in sources():
        makes, uses = named(tree)
        made |= makes
        used |= uses
    written = {call.args[0].value for _, call in calls()}  # type: ignore[attr-defined]
    for name, kind in KINDS.items():
        assert name in written or kind.__name__ in made or name in OF_STEP_LOG, f"nobody writes {name}"
        assert kind.__name__ in used or (issubclass(kind, Incident) and "Incident" in used), f"nobody reads {name}"


def test_kinds_are_told_apart() -> None:
    """No two classes have one name on disk, and each says what it is."""
    everything = [*vars(events).values(), *vars(incidents).values()]
    kinds = {kind for kind in everything if isinstance(kind, type) and issubclass(kind, Event) and kind.kind}
    assert len(KINDS) == len(kinds)
    assert all(kind.__doc__ for kind in kinds)


@pytest.mark.parametrize("event", [
    events.BlockEnded(record=block(3, "autocast=bf16", 0.4, 4, steps=[0.1] * 4, peak=2**30), lap=0),
    events.ArmFailed(arm="a=1", error="no", lap=2, t=5.5),
    events.Seen(what="first batch", site="train.py:3"),
    events.Measured.of(Measurement("x.y", "s", (1.0, 2.0), {"workers": 2}, "measured in isolation")),
    events.Measured.of(Unavailable("x.y", "no")),
    incidents.ProbeFailed(probe="storage", error="OSError"),
])
def test_an_event_survives_its_line(event: Event) -> None:
    """What is read from a line is what was written into it."""
    assert decode(json.dumps(to_entry(event))) == event


def test_the_recorder_writes_both_ways_the_same(tmp_path: Path) -> None:
    """An event given as an object and one given by its kind and fields make the same line, but for the time."""
    recorder = Recorder(str(tmp_path), 1)
    recorder.write("kept", path="/a")
    recorder.write(events.FileKept(path="/a"))
    one, other = (json.loads(line) for line in next(tmp_path.glob("events-1-*")).read_text().splitlines())
    assert one.pop("t") <= other.pop("t")
    assert one == other == {"e": "kept", "lap": 1, "path": "/a"}


def test_what_another_version_wrote_is_survived() -> None:
    """Keys and kinds that are not known are left out; a line without a field that is needed is no event."""
    assert from_entry({"e": "kept", "t": 1.0, "lap": 0, "path": "/a", "colour": "red"}) == events.FileKept(path="/a", t=1.0)
    assert from_entry({"e": "invented", "path": "/a"}) is None
    assert from_entry({"e": "kept"}) is None
    assert from_entry({"e": "loop", "step": 3}) is None
    assert decode('{"e": "kept", "pa') is None


def test_events_are_picked_by_their_kind() -> None:
    """One kind, one launch, the first and the last."""
    many: list[Event] = [events.End(reason="a"), events.FileKept(path="/a"), events.End(reason="b", lap=1)]
    assert [event.reason for event in of(events.End, many)] == ["a", "b"]
    assert [event.reason for event in of(events.End, many, lap=1)] == ["b"]
    assert first(events.End, many) is many[0]
    assert last(events.End, many) is many[2]
    assert last(events.Natural, many) is None


def test_incidents_are_in_the_capture(tmp_path: Path) -> None:
    """What went wrong on the way stands in the capture in words."""
    recorder = Recorder(str(tmp_path), 0)
    recorder.write("probe_failed", probe="storage", error="OSError: gone")
    recorder.write(incidents.WentOn())
    capture = captures.from_events(captures.read_events(tmp_path), {}, {})
    assert [(one.what, one.words) for one in capture.incidents] == [
        ("probe_failed", "probe storage, error OSError: gone"), ("went_on", "")]


def test_every_setting_that_is_read_is_one_that_the_parent_writes() -> None:
    """Keys of ``settings.json`` that the user's process asks for are fields of the class that the parent writes."""
    known = {field.name for field in fields(Settings)}
    asked = {}
    for file, tree in sources():
        if file.parts[-3:-1] not in (("inject", "feed"), ("inject", "samples")):  # other settings: those of a DataLoader
            asked |= {key: f"{file.name}:{line}" for key, line in setting_keys(tree)}
    assert {"guard", "lap"} <= asked.keys()
    assert asked.keys() <= known, {key: place for key, place in asked.items() if key not in known}


def setting_keys(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Literal keys that something called ``settings`` is asked for: ``settings["budget"]``, ``settings.get("lap")``."""
    for node in ast.walk(tree):
        whole, key = None, None
        if isinstance(node, ast.Subscript):
            whole, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
            whole, key = node.func.value, node.args[0]
        if whole is not None and isinstance(key, ast.Constant) and ast.unparse(whole).split(".")[-1] == "settings":
            yield str(key.value), node.lineno
