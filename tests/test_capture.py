"""Tests of the capture: put together from events, written, read back, and held against its schema."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from perfdoc.capture import document as captures
from perfdoc.capture.offers_of_before import as_today
from perfdoc.capture.records import Redirected
from perfdoc.capture.run import Machine, Run
from perfdoc.capture.schema import schema
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import UNITS, Measurement, Unavailable
from perfdoc.core.typed_json import from_json, to_json
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.report import everything, first_screen
from perfdoc.report.model import build

pytestmark = pytest.mark.any_python

SCHEMA = schema()
RUN = {
    "id": "20260101-120000-abcd", "command": ["python", "train.py"], "directory": "/home/me", "seconds": 70.5,
    "started": "2026-01-01T12:00:00+00:00", "perfdoc": "0.1.0", "budget": 60.0, "smallest_effect": 0.02, "seed": 7,
    "laps": 1, "outcome": "complete", "reason": "", "exit_code": 0,
}
MACHINE = {"system": "linux", "cpu": "Some CPU", "cores": 2, "memory": 2**33}


def event(kind, **fields):
    """One event as the recorder writes it."""
    return {"e": kind, "t": 1000.0, "lap": 0, **fields}


def step(seconds, during="control"):
    """One step as the session writes it: half of it forward, half backward."""
    return {"e": "step", "lap": 0, "during": during, "seconds": seconds,
            "phases": [0.0, 0.0, seconds / 2, 0.0, seconds / 2, 0.0, 0.0]}


def block(i, arm, **fields):
    """One block as the runner writes it."""
    return event("block", **{
        "i": i, "arm": arm, "phase": "screen", "count": 2, "seconds": 0.2, "steps": [0.1, 0.1], "warmup": [0.3],
        "switch": 0.001, "drained": 0, "irregular": 0, **fields,
    })


LOADER = {
    "site": "train.py:9", "class": "DataLoader", "dataset": "Images", "batch_size": 32, "num_workers": 2,
    "persistent_workers": False, "pin_memory": False, "prefetch_factor": 2, "batches_an_epoch": 100,
    "batches_a_step": 1,
}
LOOP = {
    "rank": 0, "ranks": 1, "device": "cpu", "cores": 2.0, "threads": 2,
    "step": {"batches": 1, "optimizer_calls": 1, "forwards": 1, "backwards": 1, "by_hand": False},
    "loaders": [LOADER], "models": ["Net"], "parameters": 10, "optimizers": ["SGD"], "torch": "2.9.0",
    "losses": ["Matching"],
}
PROCESS = {
    "pid": 50, "ppid": 49, "argv": ["train.py"], "python": "3.11.7", "executable": "/usr/bin/python3", "torch": "2.9.0",
    "cuda": None, "rank": None,
}
OFFER = {"slug": "autocast", "title": "mixed precision", "status": "offered", "reason": "",
         "levels": [["bf16", "autocast bf16"]], "role": "change", "cores": "", "numerics": True,
         "site": "train.py:3"}


def all_events():
    """What a scan leaves in which nearly everything happened."""
    return [
        event("process", **PROCESS), event("seen", what="torch"), event("seen", what="optimizer step"),
        event("tracker", name="wandb", to="off"), event("created", path="/home/me/vocabulary.txt"),
        *[step(0.2, "observed") for _ in range(6)],
        event("loop", **LOOP), event("offer", **OFFER),
        event("progress", phase="screen", arm="control", left=58.0, settled={}, failed=[], plan={}),
        event("switch", arm="control", config="control"), *[step(0.1) for _ in range(8)], block(0, "control"),
        event("measurement", metric="loader.ceiling", unit="s", samples=[0.01], conditions={"workers": 2},
              how="measured in your loop"),
        event("switch", arm="autocast=bf16", config="autocast=bf16"), block(1, "autocast=bf16"), block(2, "A/A"),
        event("measurement", metric="loader.ceiling", unit="s", samples=[0.02], conditions={"workers": 2},
              how="measured in your loop"),
        event("measurement", metric="loader.turnover", unavailable="no workers, so none are respawned"),
        event("redirected", path="/home/me/model.pt", to="redirected/home/me/model.pt"), event("kept", path="/home/me/old"),
        event("arm_failed", arm="channels_last=on", error="RuntimeError: view"), block(3, "control"),
        event("outcome", reason="settled", plan={"autocast": "bf16"}, failed={}, seconds_left=3.0,
              verdicts={"A/A": "no difference", "autocast=bf16": "helps"}),
        event("end", reason="settled"),
    ]


def written(folder, events, name="events-0-50.jsonl"):
    """Write events as a process's file."""
    (folder / name).write_text("".join(json.dumps(e) + "\n" for e in events), encoding="utf-8")


def built(folder):
    """The capture of a run's folder."""
    return captures.from_events(captures.read_events(folder), from_json(Run, RUN), from_json(Machine, MACHINE))


def problems(document):
    """What the schema has against a document."""
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(document)]


def valid(folder):
    """A document that follows the schema, to be spoilt."""
    written(folder, all_events())
    return built(folder).to_json()


def metrics(capture):
    """The measurements by metric."""
    return {found.metric: found for found in capture.measurements}


def test_the_schema_is_one():
    """The published schema is a valid draft 2020-12 schema, for the version that is written."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == captures.VERSION
    assert SCHEMA["properties"]["format"]["const"] == captures.FORMAT
    assert set(SCHEMA["$defs"]["Measured"]["properties"]["unit"]["enum"]) == UNITS


def test_everything_in_the_schema_is_described():
    """Every top-level entry has a title or description, its own or the one it refers to."""
    for name, entry in SCHEMA["properties"].items():
        target = SCHEMA["$defs"][entry["$ref"].rsplit("/", 1)[1]] if "$ref" in entry else entry
        assert "title" in target or "description" in target, name


def test_a_capture_of_events_follows_the_schema(tmp_path):
    """What is put together from a whole run's events validates."""
    assert problems(valid(tmp_path)) == []


@pytest.mark.parametrize("kept", range(0, 34, 3))
def test_a_killed_run_follows_the_schema_too(tmp_path, kept):
    """However many events a kill left, the capture validates and can be written and read."""
    written(tmp_path, all_events()[:kept])
    capture = built(tmp_path)
    assert problems(capture.to_json()) == []
    capture.write(tmp_path)
    assert captures.read(tmp_path) == capture


def add_surprise(document):
    """Add an entry that nobody knows."""
    document["surprise"] = 1


SPOILT = [
    add_surprise, lambda d: d.pop("blocks"), lambda d: d.update(version=2),
    lambda d: d.update(format="har"), lambda d: d["run"].pop("command"), lambda d: d["run"].update(budget="60"),
    lambda d: d["run"].update(outcome="fine"), lambda d: d["blocks"][0].update(seconds="0.2"),
    lambda d: d["blocks"][0].update(count=1.5), lambda d: d["blocks"][0].update(arm="fast"),
    lambda d: d["blocks"][0].pop("warmup"), lambda d: d["measurements"][0].update(unit="ms"),
    lambda d: d["measurements"][0].update(unavailable="both"), lambda d: d["measurements"][0].update(samples=[]),
    lambda d: d["measurements"][0].update(samples=["1"]), lambda d: d["measurements"][0].pop("how"),
    lambda d: d["measurements"].append({"metric": "x.y", "unavailable": ""}),
    lambda d: d["offers"][0].update(status="maybe"), lambda d: d["offers"][0].update(levels=[["bf16"]]),
    lambda d: d["loop"].update(ranks=0), lambda d: d["loop"]["loaders"][0].pop("site"),
    lambda d: d["experiment"].update(plan={"autocast": 1}),
    lambda d: d["experiment"].update(verdicts={"a=1": "good"}), lambda d: d["guard"].update(kept=[1]),
    lambda d: d.update(failure={"type": "KeyError"}),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_the_schema_refuses_what_is_wrong(tmp_path, spoil):
    """A document with a wrong type, a missing or an unknown entry does not validate."""
    document = copy.deepcopy(valid(tmp_path))
    spoil(document)
    assert problems(document)


@pytest.mark.parametrize("spoil", [spoil for spoil in SPOILT if spoil is not add_surprise])
def test_what_is_wrong_is_not_read(tmp_path, spoil):
    """Reading such a document raises PerfdocError with one line that names the file; only unknown entries are passed over."""
    document = json.loads(json.dumps(valid(tmp_path)))
    spoil(document)
    (tmp_path / captures.FILE_NAME).write_text(json.dumps(document))
    with pytest.raises(PerfdocError, match=r"capture\.json") as refused:
        captures.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_entry_of_a_later_version_is_passed_over(tmp_path):
    """What a newer perfdoc of the same format version adds does not keep an older one from reading."""
    document = valid(tmp_path)
    add_surprise(document)
    document["run"]["mood"] = document["blocks"][0]["colour"] = "blue"
    (tmp_path / captures.FILE_NAME).write_text(json.dumps(document))
    assert captures.read(tmp_path) == built(tmp_path)


@pytest.mark.parametrize("file", sorted((Path(__file__).parent / "captures").glob("*.json")), ids=lambda file: file.stem)
def test_captures_of_before_are_read(file):
    """Captures that were written before there were classes follow the schema, and are read and rendered."""
    document = json.loads(file.read_text())
    today = {**document, "offers": [as_today(entry) for entry in document["offers"]]}
    assert problems(today) == []
    capture = captures.read(file)
    assert {o.slug: o.role for o in capture.offers} == {
        o["slug"]: "ceiling" if o["ceiling"] else "change" if o["planned"] else "trade_off" for o in document["offers"]}
    assert problems(capture.to_json()) == []
    assert capture.run.id == document["run"]["id"]
    assert [b.arm for b in capture.blocks] == [b["arm"] for b in document["blocks"]]
    model = build(diagnose(capture))
    assert document["run"]["id"] in everything.render(model, 100)
    assert document["run"]["id"] in first_screen.render(model, 100)


def test_there_are_captures_of_before():
    """The test above has something to read."""
    assert len(list((Path(__file__).parent / "captures").glob("*.json"))) >= 3


def test_events_end_up_in_their_places(tmp_path):
    """Loop, offers, blocks, failures, plan and guard of a run are found where reports look for them."""
    written(tmp_path, all_events())
    capture = built(tmp_path)
    assert to_json(capture.loop) == LOOP
    assert to_json(capture.environment) == {name: PROCESS[name] for name in ("python", "executable", "torch")}
    assert to_json(capture.offers) == [OFFER]
    assert [b.arm for b in capture.blocks] == ["control", "autocast=bf16", "A/A", "control"]
    assert to_json(capture.experiment) == {
        "plan": {"autocast": "bf16"}, "verdicts": {"A/A": "no difference", "autocast=bf16": "helps"},
        "failed": {"channels_last=on": "RuntimeError: view"}, "estimates": {}, "reason": "settled",
        "natural": "", "carried": [],
    }
    assert capture.guard.redirected == [Redirected("/home/me/model.pt", "redirected/home/me/model.pt")]
    assert (capture.guard.kept, capture.guard.trackers) == (["/home/me/old"], ["wandb"])
    assert capture.failure is None


def test_step_times_are_those_of_the_control(tmp_path):
    """Where control blocks ran, the steps observed before them do not count."""
    written(tmp_path, all_events())
    found = metrics(built(tmp_path))
    assert found["step.time"].samples == (0.1,) * 8
    assert found["step.forward"].samples == (0.05,) * 8
    assert found["step.time"].unit == "s"


def test_few_control_steps_fall_back_on_observed_ones(tmp_path):
    """A run killed in its first block still knows how long a step takes."""
    written(tmp_path, [event("loop", **LOOP), event("offer", **OFFER), *[step(0.2, "observed")] * 6, step(0.1)])
    assert sorted(metrics(built(tmp_path))["step.time"].samples) == [0.1] + [0.2] * 6


def test_samples_are_thinned_not_cut(tmp_path):
    """Of many thousands of steps a bounded number is kept, from the whole run."""
    steps = [step(1.0 + i) for i in range(captures.MOST_SAMPLES * 2 + 10)]
    written(tmp_path, [event("offer", **OFFER), event("loop", **LOOP), *steps])
    samples = metrics(built(tmp_path))["step.time"].samples
    assert len(samples) <= captures.MOST_SAMPLES
    assert samples[-1] > len(steps) - 5


def test_rounds_of_a_probe_are_one_measurement(tmp_path):
    """Samples of one metric under the same conditions are put together, others are kept apart."""
    how = "measured in isolation"
    events = [
        event("measurement", metric="x.y", unit="s", samples=[n], conditions={"kind": kind}, how=how)
        for n, kind in ((1.0, "a"), (2.0, "b"), (3.0, "a"))
    ]
    written(tmp_path, events)
    found = [m for m in built(tmp_path).measurements if m.metric == "x.y"]
    assert [(m.conditions["kind"], m.samples) for m in found] == [("a", (1.0, 3.0)), ("b", (2.0,))]


def test_what_could_not_be_measured_has_a_reason(tmp_path):
    """Without any event every derived metric is unavailable with a reason, and none is zero."""
    written(tmp_path, [])
    found = metrics(built(tmp_path))
    assert {"step.time", "loader.num_workers", "loader.batches_an_epoch"} <= set(found)
    assert all(isinstance(m, Unavailable) and m.reason for m in found.values())


def test_a_sample_that_is_no_number_does_not_cost_the_capture(tmp_path):
    """A probe that measured NaN or infinity leaves a capture that can be written and validates."""
    (tmp_path / "events-0-1.jsonl").write_text(
        '{"e": "measurement", "t": 1, "lap": 0, "metric": "x.y", "unit": "s", "samples": [NaN, Infinity], '
        '"conditions": {}, "how": "measured in isolation"}\n'
    )
    capture = built(tmp_path)
    capture.write(tmp_path)
    assert problems(json.loads((tmp_path / captures.FILE_NAME).read_text())) == []


@pytest.mark.parametrize("tail", ['{"e": "block", "t": 10', "{", "\x00\x00", '"text"\n', "[]\n", "17\n", "{}\n", "\n"])
def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path, tail):
    """A broken or foreign line costs nothing but itself."""
    written(tmp_path, all_events())
    whole = built(tmp_path)
    with (tmp_path / "events-0-50.jsonl").open("a") as f:
        f.write(tail)
    assert built(tmp_path) == whole


def test_bytes_that_are_no_text_are_left_out(tmp_path):
    """A file damaged by a full disk is read as far as it goes."""
    written(tmp_path, all_events())
    whole = built(tmp_path)
    (tmp_path / "events-0-99.jsonl").write_bytes(b"\xff\xfe\x80 nothing\n")
    assert built(tmp_path) == whole


def test_the_leader_speaks_for_the_loop(tmp_path):
    """Of several ranks the one that experimented describes the loop, and only its steps count."""
    written(tmp_path, [event("process", **{**PROCESS, "pid": 10}), event("loop", **{**LOOP, "rank": 1}),
                       *[step(9.0)] * 8], "events-0-10.jsonl")
    written(tmp_path, all_events(), "events-0-50.jsonl")
    capture = built(tmp_path)
    assert capture.loop.rank == 0
    assert set(metrics(capture)["step.time"].samples) == {0.1}
    assert [p.pid for p in capture.processes] == [10, 50]


def test_blocks_of_all_laps_are_kept(tmp_path):
    """What earlier launches measured is in the capture beside the last one's, and so is what they failed with."""
    written(tmp_path, all_events()[:-2])
    second = [{**e, "lap": 1} for e in all_events()]
    written(tmp_path, second, "events-1-60.jsonl")
    written(tmp_path, [event("arm_failed", arm="cpu_threads=1", error="signal SIGKILL")], "events-parent.jsonl")
    capture = built(tmp_path)
    assert [b.lap for b in capture.blocks] == [0] * 4 + [1] * 4
    assert set(capture.experiment.failed) == {"channels_last=on", "cpu_threads=1"}
    assert problems(capture.to_json()) == []


def test_the_users_failure_is_kept(tmp_path):
    """The script's own exception is in the capture as it was shown."""
    failure = {"type": "KeyError", "message": "'x'", "traceback": "Traceback...", "site": "train.py:3", "guarded": False,
               "inside": ""}
    written(tmp_path, [event("process", **PROCESS), event("failure", **failure)])
    capture = built(tmp_path)
    assert to_json(capture.failure) == failure
    assert problems(capture.to_json()) == []


def test_a_capture_survives_writing_and_reading(tmp_path):
    """What is read back from the folder or the file is what was written, and no partial file is left."""
    written(tmp_path, all_events())
    capture = built(tmp_path)
    capture.measurements.append(Measurement("machine.cores", "1", (2.0,), {}, "measured in isolation"))
    path = capture.write(tmp_path)
    assert captures.read(tmp_path) == captures.read(path) == capture
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".partial"] == []


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "17", "null", "{}", '{"format": "har", "version": 1}', '{"format": "perfdoc-capture"}',
     '{"format": "perfdoc-capture", "version": 2}', '{"format": "perfdoc-capture", "version": "1"}',
     '{"format": "perfdoc-capture", "version": 1}'],
)
def test_what_is_no_capture_is_refused_with_one_line(tmp_path, text):
    """Another file, another version, or half a document raises PerfdocError that names the file."""
    path = tmp_path / "capture.json"
    path.write_text(text)
    with pytest.raises(PerfdocError, match=r"capture\.json"):
        captures.read(path)


def test_binary_and_missing_files_are_refused(tmp_path):
    """A file that is no text, and one that is not there, raise PerfdocError."""
    (tmp_path / "capture.json").write_bytes(b"\x80\x81\xff")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "capture.json"):
        with pytest.raises(PerfdocError):
            captures.read(path)
