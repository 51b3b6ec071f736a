"""The store of runs: several writers, runs that are half written, and a file that is damaged or gone."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import builders
import pytest
from conftest import perfdoc

from perfdoc.capture.document import Capture
from perfdoc.capture.run import Environment, Machine
from perfdoc.commands._run_list import FILE_NAME, Row, Store
from perfdoc.core.errors import PerfdocError

WRITER = """
import sys
from pathlib import Path
from perfdoc.commands._run_list import Row, Store
store = Store(Path(sys.argv[1]))
for number in range(20):
    store.put(Row(f"{sys.argv[2]}-{number:02d}", "scan"))
    store.put(Row(f"{sys.argv[2]}-{number:02d}", "scan", outcome="complete", step_seconds=0.1))
"""


def test_several_processes_write_at_once(tmp_path):
    """Four processes write eighty runs twice each: none is lost, none is half there."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    rows = Store(tmp_path).rows()
    assert len(rows) == 80
    assert all(row.outcome == "complete" and row.step_seconds == 0.1 for row in rows)


def test_a_writer_that_is_killed_leaves_a_store_that_can_be_read(tmp_path):
    """Killed in the middle of a transaction: the rows before it are there, and others can write on."""
    store = Store(tmp_path)
    store.put(Row("before", "scan", outcome="complete"))
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute(\"INSERT INTO runs (id, kind) VALUES ('half', 'scan')\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.file)], check=False).returncode == -9
    store.put(Row("after", "scan", outcome="complete"))
    assert [row.id for row in store.rows()] == ["after", "before"]


def test_runs_without_a_row_are_read_from_their_folders(tmp_path):
    """A store that was deleted is filled again; a folder that holds no capture, or half of one, is listed as killed."""
    for name in ("one", "two", "three"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    Capture(builders.run(id="one")).write(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "two" / "capture.json").write_text('{"format": "perfdoc-capt')
    rows = {row.id: row for row in Store(tmp_path).rows()}
    assert rows["one"].state == "complete"
    assert rows["one"].words == ["python", "train.py"]
    assert rows["two"].state == rows["three"].state == "killed"


def test_what_runs_and_what_was_killed_are_told_apart(tmp_path):
    """A row without an outcome is of a run that goes on, if its process does."""
    assert Row("a", "scan", pid=os.getpid()).state == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Row("b", "scan", pid=gone.pid).state == "killed"


def test_a_file_that_is_no_store_is_said(tmp_path):
    """One line that names the file and what to do."""
    (tmp_path / FILE_NAME).write_text("no database, but a text of some length" * 50)
    with pytest.raises(PerfdocError, match=r"cannot be used: .*Delete it"):
        Store(tmp_path).rows()


def test_a_locked_store_does_not_lose_a_row(tmp_path):
    """A writer waits for another one that takes its time."""
    store = Store(tmp_path)
    store.put(Row("first", "scan", outcome="complete"))
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE')\nprint('locked', flush=True)\ntime.sleep(1)\nc.execute('COMMIT')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.file)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        store.put(Row("second", "scan", outcome="complete"))
    assert len(store.rows()) == 2
    with sqlite3.connect(store.file) as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (2,)


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
