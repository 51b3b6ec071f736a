"""All processes of a launch see one state of the files: what any of them wrote, removed or renamed.

Each script below runs alone in one project and under the guard, through the real bootstrap, in another. What it prints must be
the same, and the guarded project unchanged. Another process is one that was forked, one that was spawned, a Python of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perfdoc.core.registry import packages
from perfdoc.launch.environment import environment

RANKS = {
    "what rank 0 saves, rank 1 finds": (
        'os.makedirs("out"); write("out/ckpt.pt", "weights"); write("a.txt", "new")',
        'print(read("out/ckpt.pt"), read("a.txt"), tree(), os.path.getsize("out/ckpt.pt"))',
    ),
    "what rank 0 removes is gone for rank 1": (
        'os.remove("a.txt"); shutil.rmtree("data")',
        'print(os.path.exists("a.txt"), os.path.isdir("data"), tree()); os.makedirs("data"); write("data/own.csv", "1")',
    ),
    "what rank 0 renames, rank 1 finds under the new name": (
        'os.rename("data", "old"); write("t.tmp", "whole"); os.replace("t.tmp", "a.txt")',
        'print(tree(), read("old/one.csv"), read("a.txt")); os.rename("old", "data")',
    ),
    "both append to one log": (
        'write("log.txt", "zero;", "a"); write("a.txt", "zero;", "a")',
        'write("log.txt", "one;", "a"); write("a.txt", "one;", "a"); print(read("log.txt"), read("a.txt"))',
    ),
    "a link to the newest": (
        'write("ckpt-1.pt", "one"); os.symlink("ckpt-1.pt", "latest")',
        'print(read("latest")); os.remove("latest"); write("ckpt-2.pt", "two"); os.symlink("ckpt-2.pt", "latest")',
    ),
    "a file that was asked for before it was made": (
        'print(os.path.exists("late.txt"), glob.glob("*.txt"), os.path.isdir("run"))',
        'os.mkdir("run"); write("run/late.txt", "x"); write("late.txt", "late"); os.remove("a.txt")',
    ),
    "only one may make a lock": (
        'os.close(os.open("lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))',
        """
try:
    os.open("lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
except FileExistsError as error:
    print("held", error.filename)
os.remove("lock")""",
    ),
    "the folder of the run by number": (
        'os.mkdir("exp%d" % len(glob.glob("exp*")))',
        'os.mkdir("exp%d" % len(glob.glob("exp*"))); print(sorted(glob.glob("exp*")))',
    ),
}
"""What rank 0 does, and what rank 1 does after it. At the end rank 0 prints what it sees."""

WAYS = {
    "fork": 'mp.get_context("fork").Process(target=ranks.one, args=(number,))',
    "spawn": 'mp.get_context("spawn").Process(target=ranks.one, args=(number,))',
    "a Python of its own": "Started([sys.executable, ranks.__file__, str(number)])",
    "a shell that starts Python": """Started(["sh", "-c", f"{sys.executable} '{ranks.__file__}' {number}"])""",
    "a Python with an environment handed to it": "Started([sys.executable, ranks.__file__, str(number)], env=dict(os.environ))",
}
"""How rank 1 comes to be."""

PRELUDE = '''
import glob, os, shutil, sys

def read(path):
    with open(path) as f:
        return f.read()

def write(path, text, mode="w"):
    with open(path, mode) as f:
        f.write(text)

def tree(top="."):
    return sorted(os.path.relpath(os.path.join(d, n), top) for d, ds, ns in os.walk(top) for n in [*ds, *ns])
'''

LAUNCH = '''
import multiprocessing as mp, subprocess
import ranks

class Started:
    def __init__(self, command, **more):
        self.command, self.more = command, more
    def start(self):
        self.process = subprocess.Popen(self.command, **self.more)
    def join(self):
        self.exitcode = self.process.wait()

if __name__ == "__main__":
    for number in range({count}):
        os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), str(number)))
        ranks.zero(number)
        sys.stdout.flush()
        other = {way}
        other.start()
        other.join()
        print(number, "exit code", other.exitcode)
        print(tree(), [read(name) for name in tree() if os.path.isfile(name)], flush=True)
'''


def seeded(top: Path, folders: int) -> None:
    """The user's data, in so many folders, or in this one."""
    for place in [str(number) for number in range(folders)] or ["."]:
        for name, text in {"a.txt": "theirs;", "data/one.csv": "1", "data/deep/two.csv": "2"}.items():
            path = top / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, (1e9, 1e9))


def snapshot(top: Path) -> dict[str, Any]:
    """Names, modes, times and bytes of everything in a folder, and of itself."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        seen = path.lstat()
        held = os.readlink(path) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(top))] = (seen.st_mode, seen.st_mtime_ns, held)
    return found


def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str], folders: int = 0) -> tuple[str, str]:
    """What ``main.py`` prints alone and under the guard. The guarded project must be unchanged, the other one not."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a __pycache__ would be a change of its own
    said = []
    for mode in ("alone", "guard"):
        project = tmp_path / f"the-{mode:5}" / "project"
        seeded(project, folders)
        for name, text in scripts.items():
            (project / name).write_text(text)
        run = tmp_path / f"kept-{mode}" / "runs" / "run"
        run.mkdir(parents=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PERFDOC_")}
        if mode == "guard":
            env = environment(run)
            settings = {
                "lap": 0, "parent": os.getpid(), "budget": 5.0, "spent": 0.0, "guard": True, "protect": [str(project)],
                "experiment": True, "only": [], "packages": packages(), "smallest_effect": 0.02, "seed": 1, "history": None,
                "excluded": [],
            }
            (run / "settings.json").write_text(json.dumps(settings))
        before = snapshot(project)
        ran = subprocess.run([sys.executable, "main.py"], cwd=project, env=env, capture_output=True, text=True, timeout=120,
                             check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert list(run.glob("inject-error*")) == []
        assert (snapshot(project) == before) == (mode == "guard")
        said.append(ran.stdout.replace(str(project), "TOP"))
    return said[0], said[1]


def module() -> str:
    """What the ranks do, as a module: ``zero(number)`` and ``one(number)``; run as a script it is rank 1."""
    lines = [PRELUDE]
    for rank, name in enumerate(("zero", "one")):
        lines.append(f"def {name}(number):")
        for number, texts in enumerate(RANKS.values()):
            lines += [f"    if number == {number}:", *(f"        {line}" for line in texts[rank].strip().splitlines())]
    return "\n".join([*lines, 'if __name__ == "__main__":', "    one(int(sys.argv[1]))", ""])


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_sees_what_another_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Rank 1 sees what rank 0 wrote, removed and renamed before it, and rank 0 what rank 1 did since."""
    main = PRELUDE + LAUNCH.replace("{way}", WAYS[way]).replace("{count}", str(len(RANKS)))
    alone, guarded = both(tmp_path, monkeypatch, {"ranks.py": module(), "main.py": main}, folders=len(RANKS))
    assert guarded == alone
    assert alone.count("exit code 0") == len(RANKS)


AT_ONCE = PRELUDE + '''
import multiprocessing as mp

def work(rank):
    for step in range(25):
        write("log.txt", f"{rank}-{step}\\n", "a")
        write(f"part-{rank}.tmp", str(step))
        os.replace(f"part-{rank}.tmp", f"part-{rank}.txt")
        os.makedirs("shared/deep", exist_ok=True)
        write(f"shared/deep/{rank}-{step}", "x")
        if step % 2:
            os.remove(f"shared/deep/{rank}-{step - 1}")

if __name__ == "__main__":
    for method in ("fork", "spawn"):
        ranks = [mp.get_context(method).Process(target=work, args=(rank,)) for rank in range(3)]
        for rank in ranks: rank.start()
        for rank in ranks: rank.join()
        print([rank.exitcode for rank in ranks], sorted(read("log.txt").split()), tree())
        print([read(f"part-{rank}.txt") for rank in range(3)])
'''


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes at a time append to one log, replace files and make folders: every line and every file is there."""
    alone, guarded = both(tmp_path, monkeypatch, {"main.py": AT_ONCE})
    assert guarded == alone
    assert alone.count("-24") >= 6


LOADER = PRELUDE + '''
import torch
from torch.utils.data import DataLoader, Dataset

class Cached(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        path = f"cache/{i}.pt"
        if not os.path.exists(path):
            os.makedirs("cache", exist_ok=True)
            torch.save(torch.tensor([i, 0]), path + ".tmp")
            os.replace(path + ".tmp", path)
            write("a.txt", f"cached {i};", "a")
        return torch.load(path) + torch.tensor([0, len(read("data/one.csv"))])

if __name__ == "__main__":
    for method, workers, epochs in (("fork", 2, 2), ("spawn", 1, 1)):
        write("data/one.csv", method)
        shutil.rmtree("cache", ignore_errors=True)
        for epoch in range(epochs):
            batches = DataLoader(Cached(), batch_size=2, num_workers=workers, multiprocessing_context=method)
            print(method, epoch, [batch.tolist() for batch in batches], tree("cache"), len(read("a.txt")))
        print(torch.load("cache/3.pt").tolist(), sorted(read("a.txt").split(";")))
'''


def test_workers_cache_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DataLoader workers, forked and spawned, keep samples in files that they and the script find again."""
    alone, guarded = both(tmp_path, monkeypatch, {"main.py": LOADER})
    assert guarded == alone
    assert alone.count("7.pt") == 3
