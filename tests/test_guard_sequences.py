"""Any sequence of file operations sees the same under the guard as alone, and the user's tree stays as it was.

Hypothesis draws the sequences from a small name space, so that operations meet on the same files. Each is done in one tree
alone and in another under the guard, by one process or by two in turn: a process sees what the other one did.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.any_python

PLAYER = Path(__file__).parent / "guard_player.py"
OLD = 1_000_000_000
EXAMPLES = int(os.environ.get("PERFDOC_TESTS_SEQUENCES", "60"))
"""Sequences a test draws; more than the suite's 60 are for whoever changes the guard."""

NAMES = (
    "a", "b", "d", "d/c", "d/e", "d/e/f", "empty", "link", "folder", "folder/c", "broken",  # the user's
    "n", "m", "d/n", "d/e/n", "empty/n", "new", "new/n", "new/in", "new/in/n", "folder/n", "folder/e/n", "c",  # new ones
    ".", "d/../a", "TOP/a", "TOP/d", "TOP/d/c", "TOP/n", "TOP/new", "TOP/new/n", "a/x", "d/",  # other ways to say them
)
MAKING = ("create", "append", "overwrite", "update", "write_text", "touch", "mkdir", "makedirs")
TAKING = ("remove", "unlink_missing", "rmdir", "rmtree")
TOUCHING = ("chmod", "truncate")
ASKING = ("read", "listdir", "scandir", "walk", "glob", "iterdir", "exists", "stat", "lstat", "readlink", "realpath", "access")
OF_TWO = ("rename", "replace", "path_rename", "move", "copy", "copytree", "symlink", "link", "samefile")
PLACES = ("TOP", "TOP/d", "TOP/new", "TOP/folder", "TOP/d/e", "new/in")

paths = st.sampled_from(NAMES)
operations = st.one_of(
    st.tuples(st.sampled_from(MAKING), st.tuples(paths)), st.tuples(st.sampled_from(MAKING), st.tuples(paths)),
    st.tuples(st.sampled_from(TAKING), st.tuples(paths)), st.tuples(st.sampled_from(ASKING), st.tuples(paths)),
    st.tuples(st.sampled_from(OF_TWO), st.tuples(paths, paths)), st.tuples(st.sampled_from(OF_TWO), st.tuples(paths, paths)),
    st.tuples(st.sampled_from(TOUCHING), st.tuples(paths)), st.tuples(st.just("chdir"), st.tuples(st.sampled_from(PLACES))),
)


def sequences(processes: int) -> st.SearchStrategy[list[Any]]:
    """Eight to twenty operations of so many processes in turn; at the end each of them looks at everything."""
    drawn = st.lists(st.tuples(st.integers(0, processes - 1), operations), min_size=8, max_size=20)
    last = [[process, "all", ["TOP"]] for process in range(processes)]
    return drawn.map(lambda some: [*([process, *operation] for process, operation in some), *last])


def seed(top: Path) -> None:
    """The user's tree."""
    for name in ("a", "b", "d/c", "d/e/f"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"their {name};")
        os.utime(top / name, (OLD, OLD))
    (top / "empty").mkdir()
    (top / "link").symlink_to("a")
    (top / "folder").symlink_to("d")
    (top / "broken").symlink_to("nowhere")


def snapshot(top: Path) -> dict[str, Any]:
    """Names, modes, times and bytes of everything in a folder, and of itself."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        seen = path.lstat()
        held = os.readlink(path) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(top))] = (seen.st_mode, seen.st_mtime_ns, held)
    return found


class Player:
    """A process that does sequences, each in a tree of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        env = {name: value for name, value in os.environ.items() if not name.startswith("PERFDOC_")}
        self._process = subprocess.Popen([sys.executable, str(PLAYER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=env)

    def play(self, sequence: list[Any], guarded: bool) -> tuple[list[Any], bool]:
        """What the operations said, and whether the tree stayed as it was."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        example = self._folder / "example"
        top, run = example / "project", example / "kept" / "runs" / "run"
        top.mkdir(parents=True)
        run.mkdir(parents=True)
        seed(top)
        before = snapshot(top)
        request = {"top": str(top), "run": str(run) if guarded else None, "operations": sequence}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        after = snapshot(top)
        shutil.rmtree(example)
        return said, after == before

    def end(self) -> None:
        """Let the process go."""
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    """The process that does the sequences of this module."""
    player = Player(tmp_path_factory.mktemp("sequences").resolve())
    yield player
    player.end()


quickly = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def check(player: Player, sequence: list[Any]) -> None:
    """The guarded sequence says what the other one says, and leaves the tree alone."""
    alone, _ = player.play(sequence, guarded=False)
    guarded, unchanged = player.play(sequence, guarded=True)
    for expected, got in zip(alone, guarded, strict=False):
        assert got == expected
    assert len(guarded) == len(alone) == len(sequence)
    assert unchanged


@quickly
@given(sequence=sequences(1))
def test_a_process_sees_what_it_would_see_alone(player: Player, sequence: list[Any]) -> None:
    """One process: results, errors, working directory and all that is seen at the end; the user's tree as it was."""
    check(player, sequence)


@quickly
@given(sequence=sequences(2))
def test_two_processes_see_what_each_other_did(player: Player, sequence: list[Any]) -> None:
    """Two processes in turn, each with a guard of its own, over one overlay on disk."""
    check(player, sequence)


FOUND = {
    # what the script sees
    "mode of a folder with something new in it": "overwrite d/n; chmod d; stat d; all TOP",
    "mode of a folder with something new deeper in it": "overwrite d/e/n; chmod d/; lstat d; all TOP",
    "mode of a folder, set by another process": "overwrite d/n; 1 chmod d; stat d; 1 stat d",
    "a file in place of a link to a folder": "rename d/c folder; chdir TOP/folder; read folder",
    "a link to a folder that was removed": "chdir folder; chdir TOP; remove folder; 1 chdir TOP/folder; chdir TOP/folder",
    "paths of entries below a folder with a slash": "rename b n; scandir d/; scandir .; scandir TOP/d; scandir d/../d",
    "one folder by two names": "overwrite folder/e/n; samefile d/ folder; samefile d TOP/d; samefile d folder; "
                               "samefile . TOP",
    "a folder moved to itself": "link folder/c folder/e/n; move TOP/d d/; all TOP",
    "a link to a folder moved into it": "touch a; rename d/e/f d/c; move folder TOP/d; all TOP",
    # ways that lead through what is not there
    "back out of a removed folder": "rmtree d; stat d/../a; read d/../a; touch d/../a; listdir d/../a; "
                                    "rmtree d/../a; exists d/../a",
    "back out of no folder": "chdir TOP/d; append d/../a; create d/../a; write_text d/../a; all TOP",
    "makedirs back out of no folder": "rename d new; makedirs d/../m; all TOP",
    "a file in the middle of a path": "overwrite new; create new/in/n; append new/in/n; read new/in/n; "
                                      "remove new/in/n; mkdir new/in/n; "
                                      "stat new/in/n; chmod new/in/n; copy new/in/n b; rename new/in/n b; rename a new/in/n",
    "a file of theirs in the middle of a path": "rename no a/x; rename b a/x; rmtree a/x; symlink a a/x; "
                                                "link b a/x; makedirs a/x/y",
    "a folder that is opened as a file": "create d/; overwrite d/; chdir TOP/d; overwrite d/; create n/; "
                                         "symlink n d/; all TOP",
    # what is refused
    "rmtree of links": "rmtree broken; rmtree folder; rmtree link; remove a; rmtree link; all TOP",
    "a link to a folder by os.link": "link d b; link d no/n; link d n; link . a; link d a/x; all TOP",
    "a file onto a folder": "rename d/e/f d; rename a d; replace b d/; rename a empty; rename empty d; "
                            "rename d empty; all TOP",
    # what errors say
    "names in errors": "rename no n; replace no n; link no n; symlink a no/n; rename a no/n; path_rename no n; "
                       "write_text no/n; "
                       "touch no/n; unlink_missing d; iterdir no; truncate .; readlink d/; scandir a; scandir folder/c",
    "names in errors after a change": "overwrite d/n; truncate .; readlink d/; scandir folder/c; listdir no; "
                                      "truncate d; read d/; "
                                      "symlink n n; copy n/x b; stat n; rmdir d/; remove d/; mkdir d/; rmdir .",
}
"""Sequences that once differed: operations of process 0, or of 1 where that is said first."""


@pytest.mark.parametrize("name", FOUND)
def test_what_once_differed(player: Player, name: str) -> None:
    """Every operation of the sequence says what it says alone."""
    sequence = []
    for said in FOUND[name].split("; "):
        process, rest = (1, said[2:]) if said.startswith("1 ") else (0, said)
        operation, *arguments = rest.split()
        sequence.append([process, operation, arguments])
    alone, _ = player.play(sequence, guarded=False)
    guarded, unchanged = player.play(sequence, guarded=True)
    differing = [(expected, got) for expected, got in zip(alone, guarded, strict=False) if got != expected]
    assert differing == []
    assert len(guarded) == len(alone) == len(sequence)
    assert unchanged


def test_the_sequences_write_where_no_guard_is(player: Player) -> None:
    """The comparison is of something: without the guard the tree changes, and each operation says what it did."""
    sequence = [[0, "overwrite", ["a"]], [1, "read", ["link"]], [1, "rename", ["d", "new"]], [0, "listdir", ["TOP"]],
                [0, "remove", ["no"]], [0, "chdir", ["new/e"]], [0, "create", ["n"]], [1, "exists", ["new/e/n"]]]
    said, unchanged = player.play(sequence, guarded=False)
    assert not unchanged
    assert [entry[-2] for entry in said] == [
        2, "w;", None, ["a", "b", "broken", "empty", "folder", "link", "new"], ["FileNotFoundError", "ENOENT", "no", None],
        None, 2, [True, True, False, True, False],
    ]
    assert said[6][-1] == "TOP/new/e/"
