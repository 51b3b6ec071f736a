"""Tests of the guard: small scripts run as a scan runs them, in a process of their own, and what is left on disk."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import perfdoc
from perfdoc.core.registry import packages

PERFDOC = Path(perfdoc.__file__).parent
PRELUDE = """
import gc, json, os, shutil, sys, tempfile
from pathlib import Path

def read(path):
    with open(path) as f:
        return f.read()

def write(path, text, mode="w"):
    with open(path, mode) as f:
        f.write(text)
"""


@dataclass
class Project:
    """A user's project under guard, and the run's folder beside it."""

    home: Path
    run: Path
    paths: list[Path] = field(default_factory=list)

    def script(self, source, **env):
        """Run a script in the project as a lap of a scan would; its standard output."""
        done = self.attempt(source, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, source, **env):
        """Run a script in the project as a lap of a scan would; the finished process."""
        script = self.run.parent / "train.py"
        script.write_text(PRELUDE + textwrap.dedent(source), encoding="utf-8")
        return subprocess.run(
            [sys.executable, str(script)], cwd=self.home, env=self._environment(env), capture_output=True, text=True,
            timeout=60, check=False,
        )

    def _environment(self, more):
        places = {"perfdoc": PERFDOC, "perfdoc_probes": PERFDOC.parent / "probes"}
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERFDOC_")},
            "PYTHONPATH": os.pathsep.join(map(str, [PERFDOC / "inject" / "bootstrap", *self.paths])),
            "PERFDOC_RUN_DIR": str(self.run),
            "PERFDOC_PACKAGES": os.pathsep.join(f"{name}={place}" for name, place in places.items()),
            **more,
        }

    def file(self, name, text="theirs"):
        """A file that is there before the scan."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def files(self):
        """All files in the project with what they hold."""
        found = [path for path in self.home.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.home)): path.read_text(encoding="utf-8") for path in found}

    def events(self, kind):
        """Events of one kind that the scripts left."""
        lines = [line for file in self.run.glob("events-*.jsonl") for line in file.read_text().splitlines()]
        return [event for event in map(json.loads, lines) if event["e"] == kind]


@pytest.fixture
def project(tmp_path):
    """An empty project, protected, with a run's folder and settings as the launcher writes them."""
    home, run = tmp_path / "project", tmp_path / "run"
    home.mkdir()
    run.mkdir()
    settings = {
        "lap": 0, "budget": 5.0, "spent": 0.0, "guard": True, "protect": [str(home)], "experiment": True, "only": [],
        "packages": packages(), "smallest_effect": 0.02, "seed": 1, "history": None, "excluded": [],
    }
    (run / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return Project(home, run)


OVERWRITING = {
    "open w": 'write("a.txt", "mine")',
    "open wb": 'open("a.txt", "wb").write(b"mine")',
    "open append": 'write("a.txt", "mine", "a")',
    "open r+": 'write("a.txt", "mine", "r+")',
    "pathlib": 'Path("a.txt").write_text("mine")',
    "absolute": 'write(os.path.abspath("a.txt"), "mine")',
    "through a link": 'os.symlink("a.txt", "link"); write("link", "mine")',
    "copyfile": 'write("b.txt", "mine"); shutil.copyfile("b.txt", "a.txt"); os.remove("b.txt")',
    "remove": 'os.remove("a.txt")',
    "unlink": 'os.unlink("a.txt")',
    "pathlib unlink": 'Path("a.txt").unlink()',
    "rename over": 'write("b.txt", "mine"); os.rename("b.txt", "a.txt")',
    "replace": 'write("b.txt", "mine"); os.replace("b.txt", "a.txt")',
    "pathlib replace": 'Path("b.txt").write_text("mine"); Path("b.txt").replace("a.txt")',
    "rename away": 'os.rename("a.txt", "b.txt")',
    "move out of the project": 'shutil.move("a.txt", tempfile.mkdtemp())',
    "logging": 'import logging; logging.basicConfig(filename="a.txt", filemode="w"); logging.warning("mine")',
    "gzip": 'import gzip; gzip.open("a.txt", "wb").write(b"mine")',
    "zipfile": 'import zipfile; zipfile.ZipFile("a.txt", "w").writestr("x", "mine")',
}


@pytest.mark.parametrize("way", OVERWRITING)
def test_an_existing_file_is_never_changed(project, way):
    """Whatever way a script takes to write over, remove or rename a file that was there, it holds what it held."""
    theirs = project.file("a.txt")
    project.script(OVERWRITING[way])
    assert theirs.read_text(encoding="utf-8") == "theirs"


def test_own_writes_are_read_back(project):
    """After writing over an existing file the script reads what it wrote, by every usual way of reading."""
    theirs = project.file("a.txt", "one")
    out = project.script("""
        write("a.txt", "two and more")
        print(json.dumps([read("a.txt"), Path("a.txt").read_text(), read(os.path.abspath("a.txt")),
                          os.path.getsize("a.txt"), os.path.exists("a.txt")]))
    """)
    assert json.loads(out) == ["two and more"] * 3 + [12, True]
    assert theirs.read_text(encoding="utf-8") == "one"


def test_appending_starts_from_what_was_there(project):
    """A file that is appended to or changed in place begins with the user's own content."""
    project.file("log.txt", "one\n")
    project.file("table.txt", "abc")
    out = project.script("""
        write("log.txt", "two\\n", "a")
        write("log.txt", "three\\n", "a")
        with open("table.txt", "r+") as f:
            f.write("X")
        print(json.dumps([read("log.txt"), read("table.txt")]))
    """)
    assert json.loads(out) == ["one\ntwo\nthree\n", "Xbc"]
    assert project.files() == {"log.txt": "one\n", "table.txt": "abc"}


def test_exclusive_creation_still_refuses_existing_files(project):
    """Opening with mode x fails on a file that is there, as it does without perfdoc."""
    project.file("a.txt")
    out = project.script("""
        try:
            open("a.txt", "x")
        except FileExistsError:
            print("refused")
    """)
    assert out == "refused\n"


def test_new_files_go_to_the_run(project):
    """Nothing new appears in the project, and the script still finds what it wrote."""
    out = project.script("""
        write("checkpoint.txt", "weights")
        Path("metrics.csv").write_text("loss")
        print(read("checkpoint.txt"), os.path.exists("metrics.csv"))
    """)
    assert out == "weights True\n"
    assert project.files() == {}
    redirected = {os.path.basename(e["path"]): project.run / e["to"] for e in project.events("redirected")}
    assert redirected["checkpoint.txt"].read_text() == "weights"
    assert redirected["metrics.csv"].read_text() == "loss"


def test_rotating_checkpoints(project):
    """Replacing and removing checkpoints works as ever within the script and touches nothing of the user's."""
    project.file("last.txt", "theirs")
    out = project.script("""
        for i in range(3):
            write("last.tmp", str(i))
            if os.path.exists("last.txt"):
                os.replace("last.txt", "previous.txt")
            os.replace("last.tmp", "last.txt")
        os.remove("previous.txt")
        print(read("last.txt"), os.path.exists("previous.txt"), os.path.exists("last.tmp"))
    """)
    assert out == "2 False False\n"
    assert project.files() == {"last.txt": "theirs"}


def test_a_file_of_the_set_up_that_training_removes_is_gone(project):
    """A file that was made, rewritten and then removed does not exist any more for the script."""
    out = project.script("""
        write("state.txt", "a")
        write("state.txt", "b")
        os.remove("state.txt")
        print(os.path.exists("state.txt"))
    """)
    assert out == "False\n"


def test_an_atomic_save_leaves_nothing_behind(project):
    """A save through a temporary file beside its target leaves the project as it was."""
    project.file("model.txt", "theirs")
    out = project.script("""
        with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as f:
            f.write("mine")
        os.replace(f.name, "model.txt")
        print(read("model.txt"))
    """)
    assert out == "mine\n"
    assert project.files() == {"model.txt": "theirs"}


@pytest.mark.parametrize("copy", ["copyfile", "copy", "copy2"])
def test_copying_the_best_checkpoint(project, copy):
    """Keeping the best checkpoint with shutil works on redirected files, with the user's own one untouched."""
    project.file("best.txt", "theirs")
    out = project.script(f"""
        write("last.txt", "weights")
        shutil.{copy}("last.txt", "best.txt")
        shutil.{copy}("last.txt", "second.txt")
        print(read("best.txt"), read("second.txt"))
    """)
    assert out == "weights weights\n"
    assert project.files() == {"best.txt": "theirs"}


def test_removing_a_tree_is_pretended(project):
    """A folder that was there survives shutil.rmtree, and the report can say so."""
    project.file("results/one.txt")
    project.file("results/deep/two.txt")
    project.script('shutil.rmtree("results")')
    assert project.files() == {"results/one.txt": "theirs", "results/deep/two.txt": "theirs"}
    assert [e["path"] for e in project.events("kept")] == [str(project.home / "results")]


def test_a_script_that_clears_its_output_folder_goes_on(project):
    """Removing an old output folder, making it anew and writing into it works, and keeps the old one."""
    project.file("results/one.txt")
    out = project.script("""
        if os.path.exists("results"):
            shutil.rmtree("results")
        os.makedirs("results")
        write("results/one.txt", "mine")
        print(read("results/one.txt"))
    """)
    assert out == "mine\n"
    assert project.files() == {"results/one.txt": "theirs"}


def test_a_script_that_renews_a_link_goes_on(project):
    """Removing the link to the latest checkpoint and making it anew does not fail the script."""
    project.file("one.txt")
    (project.home / "latest").symlink_to("one.txt")
    project.script("""
        if os.path.lexists("latest"):
            os.remove("latest")
        os.symlink("two.txt", "latest")
    """)
    assert os.readlink(project.home / "latest") == "one.txt"


def test_a_tree_of_the_scripts_own_is_removed(project):
    """A folder that the script itself made and filled is removed, for the script too."""
    project.script("""
        os.makedirs("scratch/deep")
        write("scratch/deep/x.txt", "x")
        shutil.rmtree("scratch")
    """)
    assert not (project.home / "scratch").exists()


def test_temporary_folders_are_left_alone(project, tmp_path_factory):
    """Outside of the project, files in temporary folders are written, replaced and removed as ever."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "old.txt").write_text("old")
    project.script(f"""
        write("{outside}/new.txt", "new")
        os.remove("{outside}/old.txt")
    """)
    assert [p.name for p in outside.iterdir()] == ["new.txt"]


def test_errors_are_the_users_own(project):
    """Reading or removing what is not there raises what it always raised."""
    out = project.script("""
        for action in (lambda: open("missing.txt"), lambda: os.remove("missing.txt"), lambda: shutil.rmtree("missing"),
                       lambda: os.rename("missing.txt", "b.txt"), lambda: open("no/folder.txt", "w")):
            try:
                action()
            except FileNotFoundError:
                print("not found")
    """)
    assert out == "not found\n" * 5


def test_descriptors_and_standard_streams_work(project):
    """Opening descriptors, pipes and /dev/null is not interfered with."""
    out = project.script("""
        r, w = os.pipe()
        os.fdopen(w, "w").write("through a pipe")
        print(os.stat(r) is not None, open(r).read())
        write("/dev/null", "nothing")
    """)
    assert out == "True through a pipe\n"


def test_a_worker_process_is_guarded_and_nothing_else(project):
    """A spawned child that carries PERFDOC_WORKER has its files guarded; it is not watched."""
    project.file("a.txt")
    out = project.script(
        """
        write("a.txt", "worker")
        print(read("a.txt"), sys.excepthook is sys.__excepthook__)
        """,
        PERFDOC_WORKER="1",
    )
    assert out == "worker True\n"
    assert project.files() == {"a.txt": "theirs"}


def test_a_forked_worker_reads_what_it_replaced(project):
    """A worker that was forked makes a cache file through a temporary one and finds it."""
    project.script("""
        if os.fork() == 0:
            os.environ["PERFDOC_WORKER"] = "1"
            status = 1
            try:
                write("cache.tmp", "cached")
                os.replace("cache.tmp", "cache.bin")
                status = 0 if read("cache.bin") == "cached" else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """)


def test_an_ordinary_child_is_guarded_too(project):
    """A Python child that the script starts cannot write over the user's files either."""
    project.file("a.txt")
    project.script("""
        import subprocess
        subprocess.run([sys.executable, "-c", "open('a.txt', 'w').write('child')"], check=True)
    """)
    assert project.files() == {"a.txt": "theirs"}


def test_the_users_own_sitecustomize_runs(project, tmp_path):
    """A sitecustomize further down the path is run once, as that module, after perfdoc's."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text("import os\nos.environ['MARK'] = os.environ.get('MARK', '') + 'x'\n")
    project.paths.append(place)
    out = project.script('import sitecustomize; print(os.environ["MARK"], os.path.dirname(sitecustomize.__file__))')
    assert out == f"x {place}\n"


def test_the_bootstrap_leaves_no_trace_on_the_path(project):
    """The script's search path is what it would be without perfdoc, and torch is not imported for it."""
    out = project.script('print([p for p in sys.path if p.endswith("bootstrap")], "torch" in sys.modules)')
    assert out == "[] False\n"


def test_without_settings_the_script_runs_and_the_error_is_kept(project):
    """When perfdoc cannot start, the script runs unguarded and the reason lies in the run's folder."""
    (project.run / "settings.json").unlink()
    assert project.script('print("ran")') == "ran\n"
    [error] = project.run.glob("inject-error-*.txt")
    assert "settings.json" in error.read_text()


def test_the_scripts_own_failure_is_shown_and_recorded(project):
    """An uncaught exception has its usual traceback and exit code, and an event with type and message."""
    done = project.attempt('raise KeyError("no such column")')
    assert done.returncode == 1
    assert "KeyError: 'no such column'" in done.stderr
    [failure] = project.events("failure")
    assert (failure["type"], failure["message"]) == ("KeyError", "'no such column'")


INSIDE = [
    ("import json.nothing", ""),
    ("open('no such file')", ""),
    ("import json; json.loads('{')", ""),
    ("import json; json.load(open(__file__))", ""),
    ("os.listdir('no such folder')", ""),
    ("open('new.txt', 'no such mode')", "perfdoc/inject/guard/opening.py"),
    ("import itertools; from unittest.mock import Mock; from perfdoc.inject.guard.journal import Journal\n"
     "open('new.txt', 'w').close(); Journal.sync = Mock(side_effect=itertools.chain([KeyError('x')], itertools.repeat(None)))\n"
     "open('newer.txt', 'w')",
     "perfdoc/inject/guard/overlay.py"),
]
"""A statement that fails, and perfdoc's own file that it failed in."""


@pytest.mark.parametrize(("statement", "inside"), INSIDE)
def test_an_error_of_perfdocs_is_told_from_the_scripts(project, statement, inside):
    """What was raised in perfdoc's own code may be perfdoc's fault; what only passed through it is the script's."""
    assert project.attempt(statement).returncode == 1
    [failure] = project.events("failure")
    assert failure["inside"].startswith(inside) if inside else failure["inside"] == ""


def test_torch_checkpoints_go_to_the_run(project, tmp_path_factory):
    """torch.save writes over nothing, and torch.load gives the script its own checkpoint back."""
    project.file("model.pt")
    outside = tmp_path_factory.mktemp("outside")
    out = project.script(f"""
        import io, torch
        found = []
        for i, path in enumerate(["model.pt", "new.pt", Path("path.pt"), "{outside}/outside.pt"]):
            torch.save({{"x": torch.tensor(i)}}, path)
            try:
                found.append(int(torch.load(path)["x"]))
            except Exception as error:
                found.append(type(error).__name__)
        buffer = io.BytesIO()
        torch.save(torch.tensor(9), buffer)
        buffer.seek(0)
        print(json.dumps([*found, int(torch.load(buffer))]))
    """)
    assert project.files() == {"model.pt": "theirs"}
    assert json.loads(out) == [0, 1, 2, 3, 9]
    assert {os.path.basename(e["path"]) for e in project.events("redirected")} >= {"model.pt", "new.pt", "path.pt"}


def test_what_compiled_libraries_write_goes_to_the_run(project):
    """A tokenizer's file and a picture, which Rust and C++ write, leave what was there, and can be read back."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("cv2")
    project.file("tokenizer.json")
    project.file("sample.png")
    out = project.script("""
        import cv2, numpy
        from tokenizers import Tokenizer, models
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
        for name in ("tokenizer.json", "new.json"):
            tokenizer.save(name)
        cv2.imwrite("sample.png", numpy.zeros((4, 4, 3), numpy.uint8))
        print(json.dumps([Tokenizer.from_file(name).get_vocab_size() for name in ("tokenizer.json", "new.json")]))
    """)
    assert project.files() == {"tokenizer.json": "theirs", "sample.png": "theirs"}
    assert json.loads(out) == [2, 2]
    assert {os.path.basename(e["path"]) for e in project.events("redirected")} == {"tokenizer.json", "new.json", "sample.png"}
