"""Makes the patch of a plan: a unified diff of the user's source, and snippets for what cannot be edited safely."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfdoc.capture.document import Capture
from perfdoc.core.errors import PerfdocError
from perfdoc.core.treatment import config_id
from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import discover
from perfdoc.patch.workspace import Workspace

PLAN, OTHER = "plan", "changes"
"""Names of what a run's folder holds: the plan's patch, and that of other changes that were asked for."""


@dataclass(frozen=True)
class Snippet:
    """A change that is left to the user: what to write, where, and why it is not in the patch."""

    slug: str
    level: str
    code: str
    where: str
    why: str


@dataclass(frozen=True)
class Patch:
    """A plan as source."""

    arm: str
    root: Path
    """Folder that the paths of the diff are relative to."""
    diff: str
    edited: Mapping[str, str]
    """Arms (``slug=level``) that the diff makes, with ``file:line``."""
    snippets: tuple[Snippet, ...]
    files: Mapping[str, str]
    """New text by path relative to the root."""
    before: Mapping[str, str]
    """SHA-256 of the text that the diff was made from, by path."""

    @property
    def whole(self) -> bool:
        """Whether the diff makes the whole plan."""
        return bool(self.diff) and not self.snippets

    def about(self) -> dict[str, Any]:
        """What lies beside the diff as JSON."""
        return {
            "arm": self.arm, "root": str(self.root), "edited": dict(self.edited), "before": dict(self.before),
            "snippets": [vars(s) for s in self.snippets],
        }


def make(capture: Capture, config: Mapping[str, str]) -> Patch:
    """The patch for a stack of changes. Raises PerfdocError where the source cannot be read or the capture has no places."""
    edits = discover()
    made: dict[str, str] = {}
    snippets: list[Snippet] = []
    # What cannot be edited must not leave half of itself behind: each is tried on its own first.
    able: list[str] = []
    for slug, level in sorted(config.items()):
        edit = edits.get(slug)
        if edit is None:
            snippets.append(Snippet(slug, level, _change(capture, slug, level), "", "there is no automatic edit for it"))
            continue
        trial = Workspace(capture, config)
        try:
            edit.make(level, trial)
            for source in trial.touched:
                source.changed()
            able.append(slug)
        except CannotEdit as error:
            code = error.snippet or edit.snippet(level, trial) or _change(capture, slug, level)
            snippets.append(Snippet(slug, level, code, error.where, error.why))
        except PerfdocError as error:
            snippets.append(Snippet(slug, level, edit.snippet(level, trial), "", str(error)))
    work = Workspace(capture, {slug: config[slug] for slug in able})
    for slug in able:
        made[f"{slug}={config[slug]}"] = edits[slug].make(config[slug], work)
    lines: list[str] = []
    files, before = {}, {}
    for source in sorted(work.touched, key=lambda s: str(s.path)):
        path = Path(os.path.relpath(source.path, work.root)).as_posix()
        new = source.changed()
        if new == source.text:
            continue
        lines += unified(path, source.text, new)
        files[path] = new
        before[path] = hashlib.sha256(source.text.encode()).hexdigest()
    return Patch(config_id(config), work.root, "".join(lines), made, tuple(snippets), files, before)


def unified(path: str, old: str, new: str) -> list[str]:
    """Lines of a unified diff as git writes them, with a mark where a file does not end in a line break."""
    found = []
    for line in difflib.unified_diff(_lines(old), _lines(new), f"a/{path}", f"b/{path}"):
        found.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return [f"diff --git a/{path} b/{path}\n", *found] if found else []


def _lines(text: str) -> list[str]:
    """Lines with their ends; other than ``splitlines`` not split at form feeds, as git does not split there."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def write(patch: Patch, folder: Path, name: str = PLAN) -> Path:
    """Write ``<name>.patch`` and ``<name>.json`` into a run's folder; the path of the diff."""
    target = folder / f"{name}.patch"
    target.write_bytes(patch.diff.encode())
    (folder / f"{name}.json").write_text(json.dumps(patch.about(), indent=1), encoding="utf-8")
    return target


def _change(capture: Capture, slug: str, level: str) -> str:
    offer = next((o for o in capture.offers if o.slug == slug), None)
    levels = dict(offer.levels) if offer else {}
    return str(levels.get(level, f"{slug}={level}"))
