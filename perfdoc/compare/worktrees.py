"""Two revisions of the user's repository side by side, with the data that is in no commit linked into both; always removed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from perfdoc.compare.link_tree import link_entries, unlink_entries
from perfdoc.core.errors import PerfdocError

PID = "pid"
"""File in the folder of worktrees that names the process that uses them."""
NOT_LINKED = frozenset({".perfdoc", "__pycache__", ".git", "build", "dist", ".pytest_cache", ".mypy_cache", ".ruff_cache"})


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git; its output. Raises PerfdocError where git is missing or fails."""
    try:
        ran = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=300)
    except OSError:
        raise PerfdocError("git is needed to compare revisions, and it is not installed.") from None
    if ran.returncode and check:
        raise PerfdocError((ran.stderr.strip().splitlines() or [f"git {arguments[0]} failed"])[-1])
    return ran.stdout if ran.returncode == 0 else ""


class Worktrees:
    """``with Worktrees(folder) as trees: path = trees.add("main", "base")``; all of them are gone afterwards.

    Raises PerfdocError outside of a git checkout.
    """

    def __init__(self, folder: Path, start: Path | None = None) -> None:
        top = git(start or Path.cwd(), "rev-parse", "--show-toplevel", check=False).strip()
        if not top:
            raise PerfdocError("this is no git checkout: there are no revisions to compare. `perfdoc gate base.json head.json` "
                               "compares captures.")
        self.top = Path(top)
        self.folder = folder
        self._sweep()
        self._made: list[tuple[Path, Path]] = []

    def __enter__(self) -> Worktrees:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / PID).write_text(f"{socket.gethostname()} {os.getpid()}", encoding="utf-8")
        return self

    def _sweep(self) -> None:
        """Remove what a process left behind that was killed."""
        for note in self.folder.parent.glob(f"*/{PID}"):
            host, _, pid = note.read_text(encoding="utf-8").partition(" ")
            if host != socket.gethostname() or not pid.isdigit() or psutil.pid_exists(int(pid)):
                continue  # of another machine that shares the folder, or alive
            unlink_entries(note.parent)  # first: what a link leads to is the user's
            for place in note.parent.glob("*/.git"):
                shutil.rmtree(place.parent, ignore_errors=True)
                _forget(self.top, place.parent)
            note.unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._made:
            owner, path = self._made.pop()
            with contextlib.suppress(PerfdocError, subprocess.TimeoutExpired):
                git(owner, "worktree", "remove", "--force", "--force", str(path), check=False)
            shutil.rmtree(path, ignore_errors=True)
            _forget(owner, path)
        unlink_entries(self.folder)
        (self.folder / PID).unlink(missing_ok=True)

    def commit(self, revision: str) -> str:
        """The commit that a revision names. Raises PerfdocError where there is none."""
        found = git(self.top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False).strip()
        if not found:
            shallow = git(self.top, "rev-parse", "--is-shallow-repository", check=False).strip() == "true"
            more = " (this clone is shallow: fetch more of its history; in GitHub Actions fetch-depth: 0)" if shallow else ""
            raise PerfdocError(f"no such revision: {revision}{more}")
        return found

    def add(self, revision: str, name: str) -> Path:
        """Check a revision out into a folder of its own."""
        commit = self.commit(revision)
        path = self.folder / name
        self._made.append((self.top, path))
        git(self.top, "worktree", "add", "--detach", "--force", str(path), commit)
        self._submodules(commit, path)
        self._link(path)
        link_entries(self.top.parent, self.folder)  # ../data of a worktree is what it is of the checkout
        return path

    def _submodules(self, commit: str, path: Path) -> None:
        listed = git(self.top, "ls-tree", "-r", "-z", commit)
        for line in filter(None, listed.split("\0")):
            about, _, where = line.partition("\t")
            mode, _, wanted = about.split()
            if mode != "160000":
                continue
            home = self.top / where
            if not git(home, "cat-file", "-t", wanted, check=False).strip() == "commit" or not (home / ".git").exists():
                raise PerfdocError(f"the submodule {where} is not checked out with commit {wanted[:10]}: "
                                   f"git submodule update --init {where}")
            self._made.append((home, path / where))
            git(home, "worktree", "add", "--detach", "--force", str(path / where), wanted)

    def _link(self, path: Path) -> None:
        """Link what is in no commit (data, configuration) from the checkout."""
        listed = git(self.top, "ls-files", "--others", "--directory", "--no-empty-directory", "-z")
        for entry in filter(None, listed.split("\0")):
            here = Path(entry.rstrip("/"))
            source = self.top / here
            if (NOT_LINKED & set(here.parts) or source.suffix == ".pyc" or here.name.endswith(".egg-info")
                    or (source / "pyvenv.cfg").exists()):
                continue
            target = path / here
            if not target.exists() and not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source, target_is_directory=source.is_dir())


def _forget(owner: Path, path: Path) -> None:
    """Drop git's note of a worktree that is gone. ``git worktree prune`` would drop the user's own ones whose disk is away."""
    common = git(owner, "rev-parse", "--git-common-dir", check=False).strip()
    for note in (owner / common / "worktrees").glob("*/gitdir") if common else ():
        with contextlib.suppress(OSError):
            if Path(note.read_text(encoding="utf-8").strip()).parent == path and not path.exists():
                shutil.rmtree(note.parent, ignore_errors=True)


EDITABLE = """
import importlib.metadata, json
found = []
for dist in importlib.metadata.distributions():
    text = dist.read_text("direct_url.json")
    if text and json.loads(text).get("dir_info", {}).get("editable"):
        found.append(json.loads(text)["url"])
print(json.dumps(found))
"""


def editable_projects(program: str, top: Path) -> list[Path]:
    """Folders below ``top`` (relative to it) that the interpreter imports from because they are installed as editable."""
    if not os.path.basename(program).startswith("python"):
        return []
    try:
        ran = subprocess.run([program, "-c", EDITABLE], capture_output=True, text=True, check=True, timeout=60)
        urls = json.loads(ran.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    from urllib.parse import unquote, urlparse

    paths = [Path(unquote(urlparse(url).path)).resolve() for url in urls]
    return [path.relative_to(top.resolve()) for path in paths if path.is_relative_to(top.resolve())]


def python_path(tree: Path, projects: Sequence[Path], top: Path) -> list[str]:
    """Entries of ``PYTHONPATH`` with which the user's own code is imported from the worktree, not from the checkout.

    These are the editable projects, and entries of the user's ``PYTHONPATH`` below the checkout.
    """
    found = [place for project in projects for place in (tree / project / "src", tree / project)]
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if os.path.isabs(entry) and Path(entry).resolve().is_relative_to(top.resolve()):
            found.append(tree / Path(entry).resolve().relative_to(top.resolve()))
    return [str(place) for place in found if place.is_dir()]
