"""Applies a run's patch to the user's files, or takes it back. Only ever on request."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfdoc.core.errors import PerfdocError
from perfdoc.patch.make import PLAN


@dataclass(frozen=True)
class Written:
    """A patch as a run's folder holds it."""

    file: Path
    diff: str
    about: dict[str, Any]

    @property
    def root(self) -> Path:
        """Folder that the paths of the diff are relative to."""
        return Path(self.about["root"])

    @property
    def changed(self) -> list[str]:
        """Files whose text is no longer the one that the patch was made from."""
        found = []
        for path, digest in self.about["before"].items():
            file = self.root / path
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                found.append(path)
        return found


def read(folder: Path, name: str = PLAN) -> Written:
    """The patch of a run. Raises PerfdocError where the run has none."""
    file, beside = folder / f"{name}.patch", folder / f"{name}.json"
    if not file.is_file() or not beside.is_file():
        raise PerfdocError(f"{folder.name} has no patch: its scan ended without a plan (`perfdoc report {folder.name}`).")
    about = json.loads(beside.read_text(encoding="utf-8"))
    diff = file.read_bytes().decode()
    if not diff:
        left = "; ".join(f"{s['slug']}: {s['why']}" for s in about["snippets"])
        raise PerfdocError(f"nothing of the plan of {folder.name} could be written as a patch: {left}")
    return Written(file, diff, about)


def apply(written: Written, force: bool = False, reverse: bool = False) -> list[str]:
    """Change the files, or change them back; the paths.

    Raises PerfdocError where the patch no longer fits, or the checkout has uncommitted changes.
    """
    root = written.root
    paths = list(written.about["before"])
    dirty = uncommitted(root)
    if dirty and not force and not reverse:
        shown = ", ".join(dirty[:3]) + (", ..." if len(dirty) > 3 else "")
        raise PerfdocError(f"{root} has uncommitted changes ({shown}): commit or stash them, or say --force.")
    check = git_apply(root, written.file, reverse, "--check")
    if check is not None:
        if reverse:
            raise PerfdocError(f"the patch is not in these files as it was applied: it cannot be taken back ({check}).")
        gone = [path for path in paths if not (root / path).is_file()]
        what = f"{', '.join(gone)} is gone" if gone else f"{', '.join(written.changed) or 'a file'} changed since the scan"
        raise PerfdocError(f"{written.file.name} no longer fits: {what}. Scan again for a new one ({check}).")
    failed = git_apply(root, written.file, reverse)
    if failed is not None:
        raise PerfdocError(f"the patch could not be applied: {failed}")
    return paths


def is_applied(written: Written) -> bool:
    """Whether the files hold the patch already."""
    return bool(written.changed) and git_apply(written.root, written.file.absolute(), True, "--check") is None


def texts(written: Written) -> tuple[dict[str, str], dict[str, str]]:
    """Texts of the patch's files before and after it, by path, whether it is applied or not.

    Raises PerfdocError where it no longer fits.
    """
    if not written.diff:
        return {}, {}
    now = {path: (written.root / path).read_bytes().decode() for path in written.about["before"]}
    applied = is_applied(written)
    with tempfile.TemporaryDirectory() as copy:
        for path, text in now.items():
            target = Path(copy) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text.encode())
        failed = git_apply(Path(copy), written.file.absolute(), applied)
        if failed is not None:
            raise PerfdocError(f"the patch no longer fits: {', '.join(written.changed)} changed since the scan. Scan again.")
        other = {path: (Path(copy) / path).read_bytes().decode() for path in now}
    return (other, now) if applied else (now, other)


def uncommitted(root: Path) -> list[str]:
    """Tracked files with changes that are in no commit; empty outside of a git checkout."""
    try:
        ran = subprocess.run(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"], capture_output=True,
                             text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line[3:] for line in ran.stdout.splitlines()]


def git_apply(root: Path, patch: Path, reverse: bool, *options: str) -> str | None:
    """Run ``git apply`` (it needs no repository); None, or what it complains about."""
    # Below a checkout that is not the root itself, git would take the paths as relative to the checkout.
    env_root = ["--directory", _inside(root)] if _inside(root) else []
    try:
        ran = subprocess.run(
            ["git", "apply", *options, *(["--reverse"] if reverse else []), "--whitespace=nowarn", *env_root,
             str(patch.absolute())],
            cwd=_top(root) or root, capture_output=True, text=True, check=False, timeout=60,
        )
    except OSError:
        raise PerfdocError("git is needed to apply a patch, and it is not installed.") from None
    return None if ran.returncode == 0 else (ran.stderr.strip().splitlines() or ["git apply failed"])[0]


def _top(root: Path) -> Path | None:
    try:
        found = subprocess.run(["git", "-C", str(root), "rev-parse", "--show-toplevel"], capture_output=True, text=True,
                               check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(found) if found else None


def _inside(root: Path) -> str:
    top = _top(root)
    return "" if top is None or top.resolve() == root.resolve() else root.resolve().relative_to(top.resolve()).as_posix()
