"""The list of runs: runs that are half written, and files that are damaged or gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import builders
import pytest
from conftest import perfdoc

from perfdoc.capture.document import Capture
from perfdoc.capture.run import Environment, Machine
from perfdoc.commands._run_list import FOLDER, Row, put, rows
from perfdoc.commands._storing import keep

pytestmark = pytest.mark.any_python


def test_a_row_is_written_whole(tmp_path):
    """A process that is killed while it writes leaves the row before it, and the list can be read and written on."""
    put(tmp_path, Row("one", "scan"))
    code = (
        "import os, pathlib, sys\n"
        "from perfdoc.commands import _run_list as runs\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "runs.put(pathlib.Path(sys.argv[1]), runs.Row('one', 'scan', outcome='complete'))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert [row.state for row in rows(tmp_path)] == ["killed"]
    put(tmp_path, Row("one", "scan", outcome="complete", step_seconds=0.1))
    assert [(row.state, row.step_seconds) for row in rows(tmp_path)] == [("complete", 0.1)]


def test_runs_without_a_row_are_read_from_their_folders(tmp_path):
    """A list that was deleted is made again; a folder that holds no capture, or half of one, is listed as killed."""
    for name in ("one", "two", "three"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    Capture(builders.run(id="one")).write(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "two" / "capture.json").write_text('{"format": "perfdoc-capt')
    found = {row.id: row for row in rows(tmp_path)}
    assert found["one"].state == "complete"
    assert found["one"].words == ["python", "train.py"]
    assert found["two"].state == found["three"].state == "killed"


def test_what_runs_and_what_was_killed_are_told_apart(tmp_path):
    """A row without an outcome is of a run that goes on, if its process does."""
    assert Row("a", "scan", pid=os.getpid()).state == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Row("b", "scan", pid=gone.pid).state == "killed"


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"id": 7, "kind": "scan", "new": 1}', ""])
def test_a_damaged_row_is_one_run_less(text, tmp_path):
    """A file that holds no row, or one of another version: the others are listed, and nothing is raised."""
    put(tmp_path, Row("whole", "scan", outcome="complete"))
    (tmp_path / FOLDER / "other.json").write_text(text)
    assert "whole" in {row.id for row in rows(tmp_path)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path):
    """One line on stderr; the scan goes on."""
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER).chmod(0o500)
    keep(tmp_path / "runs" / "one", Row("one", "scan"))


def test_runs_and_their_comparison_on_the_command_line(tmp_path):
    """Two captures of the same loop, one slower: listed, and compared with what differs."""
    for name, seconds in (("20260101-000000-aaaa", 0.10), ("20260102-000000-bbbb", 0.12)):
        folder = tmp_path / ".perfdoc" / "runs" / name
        folder.mkdir(parents=True)
        document = json.loads(CAPTURE)
        document["run"]["id"] = name
        document["measurements"][0]["samples"] = [seconds * (1 + 0.01 * (n % 3)) for n in range(12)]
        (folder / "capture.json").write_text(json.dumps(document))
    listed = perfdoc("runs", cwd=tmp_path)
    assert listed.code == 0
    assert "101.0 ms" in listed.out
    assert "121.2 ms" in listed.out
    compared = perfdoc("compare", "20260101-000000-aaaa", "20260102-000000-bbbb", "--json", cwd=tmp_path)
    found = json.loads(compared.out)
    assert found["ratio"]["ratio"] == pytest.approx(1.2, abs=0.01)
    assert found["ratio"]["low"] < 1.2 < found["ratio"]["high"]
    same = perfdoc("gate", "--max-slowdown", "15", ".perfdoc/runs/20260101-000000-aaaa", ".perfdoc/runs/20260101-000000-aaaa",
                   cwd=tmp_path)
    slower = perfdoc("gate", ".perfdoc/runs/20260101-000000-aaaa", ".perfdoc/runs/20260102-000000-bbbb", cwd=tmp_path)
    assert (same.code, slower.code) == (0, 1), (same.out, same.err, slower.out, slower.err)


@pytest.mark.parametrize(("group", "name", "value", "said"), [
    ("machine", "cpu", "another CPU", "different machines or environments: cpu is"),
    ("environment", "torch", "2.13.0", "different machines or environments: torch is"),
    ("loop", "parameters", 11, "different workloads: parameters is"),
])
def test_captures_of_other_machines_or_workloads_are_refused(group, name, value, said, tmp_path):
    """What cannot be compared is not: usage error, and what differs is named."""
    for file, changed in (("base.json", False), ("head.json", True)):
        document = json.loads(CAPTURE)
        document["measurements"][0]["samples"] = [0.1, 0.101, 0.102, 0.1]
        if changed:
            document[group][name] = value
        (tmp_path / file).write_text(json.dumps(document))
    ran = perfdoc("gate", "base.json", "head.json", cwd=tmp_path)
    assert ran.code == 2
    assert said in ran.err


CAPTURE = json.dumps({
    **Capture(
        builders.run(directory="."), Machine("linux", "a CPU", 2, 8 * 2**30, "one", ""),
        Environment("3.11.7", "python", "2.14.1"), builders.loop(threads=1, loaders=[], torch="2.14.1"),
    ).to_json(),
    "measurements": [{"metric": "step.time", "unit": "s", "samples": [0.1], "conditions": {"arm": "control"},
                      "how": "measured in your loop"}],
})
