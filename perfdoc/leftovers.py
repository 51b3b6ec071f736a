"""What a script made before it trained: allowed while it runs, and nothing to find after a run that is thrown away."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def git_status(folder: Path) -> set[str] | None:
    """Real paths that ``git status`` lists now for the checkout that holds ``folder``; None outside of one."""
    try:
        top = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True, timeout=30)
        listed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"],
            capture_output=True, text=True, check=True, timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {os.path.realpath(os.path.join(top.stdout.strip(), entry[3:])) for entry in listed.stdout.split("\0") if entry}


def tidy(events: Sequence[Mapping[str, Any]], checkout: Path, target: Path) -> list[str]:
    """Move what the script made in set-up out of the user's way, to ``target``; their paths.

    Moved are files that show in ``git status`` of ``checkout``, and outside of git those that were written to while it trained:
    logs. Downloads and caches stay. ``events``: of the runs, which must have ended.
    """
    first = min((e["t"] for e in events if e["e"] == "seen" and e["what"] == "optimizer step"), default=None)
    created = sorted({e["path"] for e in events if e["e"] == "created"})
    tracked = git_status(checkout) if created else None
    moved = []
    for path in created:
        if not os.path.isfile(path):
            continue
        shows = tracked is not None and os.path.realpath(path) in tracked
        log = first is not None and os.path.getmtime(path) > first and tracked is None
        if shows or log:
            place = target / path.lstrip(os.sep)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)
            moved.append(path)
    for folder in sorted({e["path"] for e in events if e["e"] == "folder"}, reverse=True):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # only where it is empty: what the script wanted in it lies in the run's folder
    return moved
