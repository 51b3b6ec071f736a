"""What Python writes past the guard is put right after the run: new files lie in the run, the user's are as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_guard_idioms import PERFDOC, seed, snapshot

from perfdoc.capture import document as captures
from perfdoc.core.registry import packages
from perfdoc.launch.leftovers import Listing, tidy

pytestmark = pytest.mark.any_python

PAST = {
    "an existing file, by io.FileIO": 'import io\nf = io.FileIO("a.txt", "w"); f.write(b"mine"); f.close()',
    "a new file, by io.FileIO": 'import io\nf = io.FileIO("new.bin", "w"); f.write(b"mine"); f.close()',
    "by the system's own open": 'import posix\nposix.write(posix.open("a.txt", posix.O_WRONLY | posix.O_TRUNC), b"mine")',
    "a file made by it": 'import posix\nposix.write(posix.open("data/made", posix.O_WRONLY | posix.O_CREAT), b"mine")',
    "removed by it": 'import posix\nposix.unlink("a.txt"); posix.remove("data/one.csv")',
    "renamed by it": 'import posix\nposix.rename("a.txt", "z.txt"); posix.replace("b.txt", "config.json")',
    "a folder made by it": 'import posix\nposix.mkdir("new"); posix.mkdir("new/deep"); posix.symlink("x", "new/link")',
    "modes": 'import posix\nposix.chmod("a.txt", 0o600)',
    "times": 'import posix\nposix.utime("b.txt", (5, 5)); posix.truncate("config.json", 2)',
    "by a reference from before": 'import _io\n_io.open("a.txt", "a").write("more"); _io.open("n.txt", "w").write("n")',
}


def run(project: Path, run_dir: Path, script: str) -> None:
    """Run a script under the guard, and put things right as the launcher does."""
    settings = {"lap": 0, "guard": True, "protect": [str(project)], "experiment": False, "packages": packages()}
    (run_dir / "settings.json").write_text(json.dumps(settings))
    env = {name: value for name, value in os.environ.items() if not name.startswith("PERFDOC_")}
    env |= {"PERFDOC_RUN_DIR": str(run_dir), "PYTHONPATH": str(PERFDOC / "inject" / "bootstrap"),
            "PERFDOC_PACKAGES": f"perfdoc={PERFDOC}"}
    subprocess.run([sys.executable, "-c", script], cwd=project, env=env, check=True, timeout=60)
    tidy(captures.read_events(run_dir), target=run_dir / "unguarded", folder=run_dir)


@pytest.mark.parametrize("way", PAST)
def test_what_was_written_past_the_guard_is_put_right(tmp_path: Path, way: str) -> None:
    """Bytes, modes and times of the user's files are as they were, nothing new is there; times of folders may differ."""
    project, run_dir = tmp_path / "project", tmp_path / "runs" / "runs" / "run"
    project.mkdir()
    run_dir.mkdir(parents=True)
    seed(project)
    before = snapshot(project)
    script = PAST[way] + "\nimport os; os.system('touch -c data/two.csv')"  # no change of Python's: must not be touched
    os.utime(project / "data/two.csv", (1e9, 1e9))
    run(project, run_dir, script)
    after = snapshot(project)
    assert after.keys() == before.keys()
    folders = {name for name in before if (project / name).is_dir()} | {"data/two.csv"}
    assert {n: s for n, s in after.items() if n not in folders} == {n: s for n, s in before.items() if n not in folders}
    changed_alone = (project / "data/two.csv").stat().st_mtime
    assert changed_alone > 1e9, "what another program did is the user's affair"


def test_what_other_programs_leave_is_told_and_left(tmp_path: Path) -> None:
    """A file that a shell makes is in the listing afterwards, and is neither moved nor removed."""
    project, run_dir = tmp_path / "project", tmp_path / "runs" / "runs" / "run"
    project.mkdir()
    run_dir.mkdir(parents=True)
    seed(project)
    before = Listing(project, tmp_path / "runs")
    run(project, run_dir, 'import os; os.system("echo made > shell.txt; echo more >> b.txt")')
    after = Listing(project, tmp_path / "runs")
    assert [os.path.relpath(path, project) for path in after.new(before)] == ["b.txt", "shell.txt"]
    assert (project / "shell.txt").read_text() == "made\n"
    before.whole = False
    assert after.new(before) == [], "a listing that was cut off says nothing"
