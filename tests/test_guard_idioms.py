"""Under the guard a script sees what it would see alone, and the user's tree stays byte for byte as it was.

Every idiom below runs twice on a tree of its own: alone, and under the guard through the real bootstrap. What it prints must be
the same, the guarded tree unchanged (names, bytes, modes, times), and the other one changed, so that nothing passes for nothing.
To add an idiom, add an entry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perfdoc
from perfdoc.core.registry import packages

pytestmark = pytest.mark.any_python

PERFDOC = Path(perfdoc.__file__).parent

SEED = {
    "a.txt": "theirs\n", "b.txt": "bee\n", "data/one.csv": "1\n", "data/two.csv": "2\n", "data/deep/three.csv": "3\n",
    "ckpt-000.pt": "old weights", "config.json": '{"lr": 0.1}', "run.sh": "#!/bin/sh\n",
}
"""The user's tree; ``link`` leads to a.txt, ``folder`` to data, ``broken`` to nowhere, ``empty`` is a folder."""

PRELUDE = '''
import csv, errno, fnmatch, glob, gzip, io, json, logging, logging.handlers, os, pickle, shutil, sqlite3, stat, sys, tarfile
import tempfile, zipfile, bz2, lzma, configparser, fileinput, subprocess, pathlib, collections
from pathlib import Path
def read(path):
    with open(path) as f: return f.read()
def write(path, text, mode="w"):
    with open(path, mode) as f: f.write(text)
def tree(top="."):
    return sorted((os.path.relpath(os.path.join(d, n), top)) for d, ds, ns in os.walk(top) for n in [*ds, *ns])
def tried(what, *args, **kwargs):
    try:
        what(*args, **kwargs)
    except OSError as error:
        return [type(error).__name__, errno.errorcode.get(error.errno, error.errno),
                os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes, os.PathLike)) else None]
    return "no error"
'''

IDIOMS = {
    # opening
    "open w": 'write("a.txt", "mine"); say(read("a.txt"), os.path.getsize("a.txt"))',
    "open a": 'write("a.txt", "more", "a"); write("new.txt", "x", "a"); say(read("a.txt"), read("new.txt"))',
    "open r+": 'f = open("a.txt", "r+"); f.write("X"); f.close(); say(read("a.txt"))',
    "open w+ b": 'f = open("n.bin", "w+b"); f.write(b"12"); f.seek(0); say(f.read().decode(), f.name); f.close()',
    "open x": 'write("new", "1", "x"); say(tried(open, "new", "x"), tried(open, "a.txt", "x"), read("new"))',
    "file name stays": 'f = open("sub.txt", "w"); say(f.name, f.mode); f.close(); say(open("sub.txt").name)',
    "errors of open": """say(tried(open, "no/x", "w"), tried(open, "no"), tried(open, "data", "w"), tried(open, "a.txt/x"),
        tried(open, "a.txt/x", "w"), tried(open, "broken"), tried(open, "no", "r+"), tried(open, ""), tried(open, "data"))
        write("z", "")""",
    "through links": 'write("link", "L"); write("folder/n.csv", "N"); say(read("a.txt"), tree(), read("data/n.csv"))',
    "through a broken link": 'write("broken", "now"); say(read("broken"), read("nowhere.txt"), os.path.exists("nowhere.txt"))',
    "os.open": """fd = os.open("o.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o640); os.write(fd, b"hey"); os.close(fd)
        say(read("o.txt"), oct(os.stat("o.txt").st_mode)); say(tried(os.open, "o.txt", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        say(tried(os.open, "no", os.O_WRONLY))""",
    "os.open dir_fd": """d = os.open("data", os.O_RDONLY); fd = os.open("new.csv", os.O_CREAT | os.O_WRONLY, dir_fd=d)
        os.write(fd, b"9"); os.close(fd); say(os.stat("new.csv", dir_fd=d).st_size, read("data/new.csv"))
        os.unlink("one.csv", dir_fd=d); os.mkdir("made", dir_fd=d); say(sorted(os.listdir(d)), tree("data")); os.close(d)""",
    "bytes paths": 'write(b"by.txt", "b"); say(sorted(map(os.fsdecode, os.listdir(b"."))), os.path.exists(b"by.txt"))',
    "unicode": 'write("gr\\u00fc\\u00dfe.txt", "x"); say([n for n in sorted(os.listdir(".")) if n.startswith("gr")])',
    "pathlib": """p = Path("out") / "deep"; p.mkdir(parents=True); (p / "c.json").write_text("{}"); (p / "t").touch()
        say(sorted(x.name for x in p.iterdir()), (p / "c.json").read_text(), (p / "t").exists(), p.is_dir(), (p / "t").is_file(),
        sorted(map(str, Path(".").rglob("*.json"))), sorted(map(str, Path(".").glob("out/*/*"))), (p / "c.json").stat().st_size)
        (p / "c.json").rename(p / "d.json"); (p / "t").unlink(); say(tree("out")); Path("out/deep/d.json").replace("a.txt")
        say(read("a.txt"), tree("out")); p.rmdir(); Path("out").rmdir(); say(Path("out").exists(), Path("a.txt").resolve().name)""",
    "pathlib links": """Path("latest").symlink_to("data"); say(Path("latest").is_symlink(), Path("latest").resolve().name,
        sorted(x.name for x in Path("latest").iterdir())); Path("latest").unlink(); say(os.path.lexists("latest"))
        Path("best").symlink_to("a.txt")""",
    # folders
    "makedirs": """os.makedirs("x/y/z"); os.makedirs("x/y", exist_ok=True); write("x/y/z/f", "1"); say(tree("x"))
        say(tried(os.makedirs, "x/y"), tried(os.mkdir, "no/such"), tried(os.mkdir, "data"), tried(os.mkdir, "a.txt/x"))""",
    "folder of the run by number": """n = 1 + sum(d.startswith("exp") for d in os.listdir(".")); os.mkdir(f"exp{n}"); write(f"exp{n}/l", "x")
        n = 1 + sum(d.startswith("exp") for d in os.listdir(".")); os.mkdir(f"exp{n}"); say(sorted(glob.glob("exp*")))""",
    "rmdir": """os.mkdir("e"); os.rmdir("e"); os.rmdir("empty"); say(tree(), tried(os.rmdir, "data"), tried(os.rmdir, "a.txt"),
        tried(os.rmdir, "no")); os.mkdir("empty"); say(os.listdir("empty"))""",
    "removedirs": 'os.makedirs("p/q"); os.removedirs("p/q"); say(os.path.exists("p")); write("w", "")',
    "rmtree": """shutil.rmtree("data"); say(os.path.exists("data"), tried(os.listdir, "data"), tried(open, "data/one.csv"))
        os.makedirs("data"); write("data/n", "n"); say(tree("data"), tried(shutil.rmtree, "no")); shutil.rmtree("no", ignore_errors=True)
        shutil.rmtree("data"); say(tree())""",
    "chdir": """os.makedirs("out/run"); here = os.getcwd(); os.chdir("out/run"); write("rel.txt", "r")
        say(os.path.relpath(os.getcwd(), here), os.listdir("."), read("../../a.txt"), os.path.abspath("rel.txt")[len(here):])
        os.mkdir("in"); os.chdir("in"); say(os.path.relpath(os.getcwd(), here)); os.chdir(here); say(tree("out"))""",
    "chdir into a folder of theirs": """here = os.getcwd(); os.chdir("data"); write("n.csv", "n"); os.remove("one.csv")
        say(sorted(os.listdir(".")), sorted(glob.glob("*.csv")), os.path.exists("../a.txt")); os.chdir(here)""",
    # removing and renaming
    "remove": 'os.remove("a.txt"); say(os.path.exists("a.txt"), tried(open, "a.txt"), tried(os.remove, "a.txt"), tree())',
    "remove errors": 'say(tried(os.remove, "no"), tried(os.remove, "data"), tried(os.unlink, "a.txt/x")); write("w", "")',
    "remove and make anew": 'os.remove("a.txt"); write("a.txt", "2"); say(read("a.txt")); os.remove("a.txt"); say(tree())',
    "remove a link": 'os.remove("link"); say(os.path.lexists("link"), read("a.txt")); os.symlink("b.txt", "link"); say(read("link"))',
    "rename": 'os.rename("a.txt", "c.txt"); say(tree(), read("c.txt"), tried(open, "a.txt")); os.rename("c.txt", "data/c"); say(tree())',
    "replace": 'write("t.tmp", "new"); os.replace("t.tmp", "a.txt"); say(read("a.txt"), tree())',
    "replace theirs by theirs": 'os.replace("a.txt", "b.txt"); say(read("b.txt"), tree())',
    "rename errors": """say(tried(os.rename, "no", "x"), tried(os.rename, "a.txt", "data"), tried(os.rename, "data", "a.txt"),
        tried(os.rename, "a.txt", "no/x"), tried(os.rename, "data", "data/in")); os.mkdir("m"); os.rename("m", "empty"); say(tree())""",
    "rename a folder": """os.rename("data", "old"); say(tree(), read("old/deep/three.csv"), os.path.exists("data"))
        os.makedirs("data"); write("data/x", "x"); say(tree("data")); os.rename("old", "older"); say(tree("older"))""",
    "renames": 'os.renames("data/deep/three.csv", "moved/to/3.csv"); say(tree())',
    "a file in place of a folder": 'shutil.rmtree("data"); write("data", "file"); say(os.path.isfile("data"), read("data")); os.remove("data"); os.mkdir("data"); say(tree())',
    "shutil": """shutil.copy("a.txt", "c1"); shutil.copy2("a.txt", "data/c2"); shutil.copyfile("a.txt", "b.txt"); shutil.copytree("data", "copy")
        shutil.move("copy/one.csv", "1.csv"); shutil.move("data", "moved"); say(tree(), read("b.txt"), read("moved/c2"))
        say(int(os.stat("data/c2" if os.path.exists("data/c2") else "moved/c2").st_mtime) == int(os.stat("a.txt").st_mtime))""",
    "make_archive": 'shutil.make_archive("arch", "zip", "data"); say(sorted(zipfile.ZipFile("arch.zip").namelist()))',
    # asking
    "questions": """write("n", "12"); os.mkdir("d"); s = os.stat("n"); say(s.st_size, stat.S_ISREG(s.st_mode), os.path.isdir("d"),
        os.path.isfile("n"), os.path.islink("link"), os.readlink("link"), os.path.exists("broken"), os.path.lexists("broken"),
        os.access("n", os.R_OK), os.access("no", os.R_OK), os.path.samefile("n", "./n"), os.path.realpath("folder")[-5:],
        os.path.getmtime("a.txt") > 0, os.lstat("link").st_size)""",
    "chmod and utime": """os.chmod("a.txt", 0o600); os.utime("a.txt", (1, 2)); os.truncate("b.txt", 1); Path("run.sh").chmod(0o755)
        say(oct(os.stat("a.txt").st_mode), os.stat("a.txt").st_mtime, read("b.txt"), read("a.txt"), os.access("run.sh", os.X_OK))""",
    "touch": 'Path("a.txt").touch(); os.utime("ckpt-000.pt"); say(os.stat("a.txt").st_mtime > 1e9, read("a.txt"))',
    "listing": """write("n", ""); os.remove("a.txt"); os.mkdir("d"); write("d/x", "");  os.remove("data/one.csv")
        say(sorted(os.listdir(".")), sorted(os.listdir()), sorted(e.name for e in os.scandir(".")), sorted(glob.glob("**", recursive=True)))
        with os.scandir("data") as entries: say(sorted((e.name, e.is_dir(), e.is_file(), e.is_symlink(), e.path, e.stat().st_size) for e in entries if not e.is_dir()))
        say([(d, sorted(s), sorted(f)) for d, s, f in sorted(os.walk("."))], [(d, sorted(f)) for d, s, f in sorted(os.walk("data", topdown=False))])
        say(sorted(fnmatch.filter(os.listdir("data"), "*.csv")), tried(os.listdir, "n"), tried(os.listdir, "no"), tried(os.scandir, "a.txt"))""",
    "fwalk": 'write("data/n", ""); say(sorted((d, sorted(f)) for d, s, f, fd in os.fwalk("data")))',
    "links": """os.symlink("a.txt", "l1"); os.symlink(os.path.abspath("data"), "l2"); os.link("a.txt", "h1"); write("l1", "via l1")
        say(read("a.txt"), sorted(os.listdir("l2")), os.readlink("l1"), tried(os.symlink, "x", "l1"), os.path.islink("l2"))
        write("l2/n", "n"); say(tree("data")); os.replace("l1", "l3"); say(os.path.islink("l3"), read("l3"))""",
    "latest link": """for i in range(3):
            write(f"c{i}.pt", str(i))
            if os.path.islink("latest"): os.unlink("latest")
            os.symlink(f"c{i}.pt", "latest")
        say(read("latest"), os.readlink("latest"))""",
    # what training scripts do
    "rotating checkpoints": """for i in range(1, 4):
            for old in glob.glob("ckpt-*.pt"): os.remove(old)
            write(f"ckpt-{i:03d}.pt", str(i)); say(glob.glob("ckpt-*.pt"))""",
    "the newest two": """for i in range(1, 5):
            write(f"ckpt-{i:03d}.pt", str(i))
            for old in sorted(Path(".").glob("ckpt-*.pt"))[:-2]: old.unlink()
        say(sorted(p.name for p in Path(".").glob("ckpt-*")))""",
    "atomic save": """with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as f: f.write("mine")
        os.replace(f.name, "a.txt"); say(read("a.txt"), tree())""",
    "temporary files in the project": """with tempfile.TemporaryDirectory(dir=".") as d: write(os.path.join(d, "x"), "1"); say(os.listdir(d))
        with tempfile.TemporaryFile(dir=".") as f: f.write(b"1")
        say(tree()); write("w", "")""",
    "logging": """h = logging.FileHandler("logs.txt"); l = logging.getLogger("x1"); l.addHandler(h); l.warning("one"); h.close()
        r = logging.handlers.RotatingFileHandler("rot.log", maxBytes=20, backupCount=2); k = logging.getLogger("x2"); k.addHandler(r)
        for i in range(6): k.warning("line %d", i)
        r.close(); say(read("logs.txt"), sorted(glob.glob("rot*")), read("rot.log"))""",
    "run once": """if not os.path.exists("prepared"): os.makedirs("prepared"); write("prepared/vocab", "a b")
        say(read("prepared/vocab"), tried(os.makedirs, "prepared"))""",
    "lock file": """fd = os.open("lock", os.O_CREAT | os.O_EXCL | os.O_RDWR); say(tried(os.open, "lock", os.O_CREAT | os.O_EXCL | os.O_RDWR))
        import fcntl; fcntl.flock(fd, fcntl.LOCK_EX); os.close(fd); os.remove("lock"); say(os.path.exists("lock")); write("w", "")""",
    "formats": """json.dump({"a": 1}, open("j.json", "w")); pickle.dump([1], open("p.pkl", "wb")); csv.writer(open("c.csv", "w")).writerow([1, 2])
        gzip.open("g.gz", "wt").write("g"); bz2.open("b.bz2", "wt").write("b"); lzma.open("x.xz", "wt").write("x")
        with zipfile.ZipFile("z.zip", "w") as z: z.write("a.txt"); z.writestr("n", "n")
        with tarfile.open("t.tar", "w") as t: t.add("data")
        c = configparser.ConfigParser(); c["x"] = {"y": "1"}; c.write(open("c.ini", "w"))
        say(json.load(open("j.json")), pickle.load(open("p.pkl", "rb")), sorted(zipfile.ZipFile("z.zip").namelist()), len(tarfile.open("t.tar").getnames()))
        shutil.unpack_archive("z.zip", "un"); say(tree("un"), zipfile.is_zipfile("z.zip"))""",
    "sqlite": """c = sqlite3.connect("runs.db"); c.execute("create table t (x)"); c.execute("insert into t values (1)"); c.commit(); c.close()
        say(os.path.exists("runs.db"), sqlite3.connect("runs.db").execute("select x from t").fetchall())""",
    "shelve": """import shelve
        with shelve.open("s.db") as s: s["a"] = 1
        with shelve.open("s.db") as s: say(dict(s)); s["b"] = 2
        with shelve.open("s.db") as s: say(sorted(s))""",
    "inplace editing": """with fileinput.input("a.txt", inplace=True) as lines:
            for line in lines: print(line.upper(), end="")
        say(read("a.txt"), tree())""",
    "a child of Python's": """write("n.txt", "parent"); os.remove("b.txt")
        code = "import os; print(open('n.txt').read(), os.path.exists('b.txt'), sorted(os.listdir('.'))); open('child.txt', 'w').write('c'); os.remove('a.txt')"
        say(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        say(read("child.txt"), os.path.exists("a.txt"))""",
    "a forked child": """write("n.txt", "parent"); pid = os.fork()
        if pid == 0:
            write("child.txt", read("n.txt") + " child"); os.remove("a.txt"); os.makedirs("made/by/child"); os._exit(0)
        os.waitpid(pid, 0); say(read("child.txt"), os.path.exists("a.txt"), tree("made"))""",
    "a child in a new folder": """os.makedirs("out/x"); write("out/x/f", "1")
        say(subprocess.run([sys.executable, "-c", "import os; print(os.listdir('.'))"], cwd="out/x", capture_output=True, text=True).stdout)""",
    "a spawned worker": """write("cells.py", "def cell(n):\\n    open(f'cache{n}.bin', 'w').write('c'); return open('n.txt').read()\\n")
        import multiprocessing as mp; sys.path.insert(0, os.getcwd()); write("n.txt", "parent")
        code = "import multiprocessing as mp, cells, sys\\nif __name__ == '__main__':\\n  with mp.get_context('spawn').Pool(1) as p: print(p.map(cells.cell, [1, 2]))"
        write("main.py", code); say(os.path.exists("cache1.bin"))""",
}


def snapshot(top: Path) -> dict[str, Any]:
    """Names, kinds, modes, times and bytes of everything below a folder."""
    found = {}
    for place, folders, names in os.walk(top):
        for name in [*folders, *names]:
            path = os.path.join(place, name)
            seen = os.lstat(path)
            held = os.readlink(path) if os.path.islink(path) else b"" if os.path.isdir(path) else Path(path).read_bytes()
            found[os.path.relpath(path, top)] = (seen.st_mode, seen.st_mtime_ns, held)
    return found


def seed(top: Path) -> None:
    """Make the user's tree."""
    for name, text in SEED.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
        os.utime(top / name, (1e9, 1e9))
    (top / "empty").mkdir()
    (top / "link").symlink_to("a.txt")
    (top / "folder").symlink_to("data")
    (top / "broken").symlink_to("nowhere.txt")


def script(project: Path) -> str:
    """A program that runs every idiom in its own folder and prints what they said."""
    lines = [PRELUDE, "said = {}", f"top = {str(project)!r}"]
    for number, (name, text) in enumerate(IDIOMS.items()):
        first, *rest = text.splitlines()
        body = [first, *(line[8:] for line in rest)]
        lines += [f"def idiom{number}(say):", *(f"    {line}" for line in body), f"os.chdir(os.path.join(top, '{number}'))",
                  "found = []", "try:", f"    idiom{number}(lambda *what: found.append(what))",
                  "except BaseException as error:", "    found.append(f'{type(error).__name__}: {error}')",
                  f"said[{name!r}] = found"]
    lines += ["os.chdir(top)", "sys.stdout.write(json.dumps(said, default=str))"]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the idioms said alone and under the guard, and their trees before and after."""
    found: dict[str, Any] = {}
    run_dir = tmp_path_factory.mktemp("keeps") / "runs" / "run"
    run_dir.mkdir(parents=True)
    for mode in ("alone", "guard"):
        project = tmp_path_factory.mktemp(mode)
        for number in range(len(IDIOMS)):
            seed(project / str(number))
        before = [snapshot(project / str(number)) for number in range(len(IDIOMS))]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PERFDOC_")}
        if mode == "guard":
            settings = {"lap": 0, "guard": True, "protect": [str(project)], "experiment": False, "packages": packages()}
            (run_dir / "settings.json").write_text(json.dumps(settings))
            env |= {"PERFDOC_RUN_DIR": str(run_dir), "PYTHONPATH": str(PERFDOC / "inject" / "bootstrap"),
                    "PERFDOC_PACKAGES": f"perfdoc={PERFDOC}"}
        python = os.environ.get("PERFDOC_TESTS_PYTHON", sys.executable)  # another version, without torch
        ran = subprocess.run([python, "-c", script(project)], cwd=project, env=env, capture_output=True, text=True,
                             timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert list(run_dir.glob("inject-error*")) == []
        said = json.loads(ran.stdout.replace(str(project), "TOP"))
        after = [snapshot(project / str(number)) for number in range(len(IDIOMS))]
        found[mode] = (said, before, after)
    return found


@pytest.mark.parametrize("name", IDIOMS)
def test_a_script_sees_what_it_would_see_alone(both: dict[str, Any], name: str) -> None:
    """Contents, listings, attributes and errors are the same with the guard and without it."""
    assert both["guard"][0][name] == both["alone"][0][name]


@pytest.mark.parametrize("name", IDIOMS)
def test_the_users_tree_stays_as_it_was(both: dict[str, Any], name: str) -> None:
    """Nothing is new, gone or different under the guard; without it something is."""
    number = list(IDIOMS).index(name)
    _, before, after = both["guard"]
    assert after[number] == before[number]
    _, before, after = both["alone"]
    assert after[number] != before[number], "this idiom shows nothing"
