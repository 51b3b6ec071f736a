"""The runs of a folder: what was run when, and what came of it in a line. One small file a run, beside the run.

Each run writes its own file only, whole, by renaming it into its place: nothing is shared, so nothing is locked, and a run that
is being written, or was killed, has a row without figures. Where the file is missing the row is made from the capture.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perfdoc.core.alive import lives
from perfdoc.core.errors import PerfdocError

FOLDER = "rows"


@dataclass(frozen=True)
class Row:
    """One run."""

    id: str
    kind: str
    """``scan``, ``bench-loader``, ``verify`` or ``gate``."""
    started: str | None = None
    """ISO 8601."""
    command: str | None = None
    """The command as a JSON list."""
    outcome: str | None = None
    """None while it runs."""
    pid: int | None = None
    seconds: float | None = None
    step_seconds: float | None = None
    """Median seconds a step of the user's own settings."""
    plan: str | None = None
    """The plan's arm; for verify and gate what was compared."""
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    commit_id: str | None = None
    """Commit that was checked out, with a ``+`` where there were changes besides."""

    @property
    def state(self) -> str:
        """The outcome; ``running`` or ``killed`` where there is none yet."""
        if self.outcome is not None:
            return self.outcome
        return "running" if self.pid is not None and lives(self.pid) else "killed"

    @property
    def words(self) -> list[str]:
        """The command."""
        return list(json.loads(self.command)) if self.command else []


COLUMNS = tuple(field.name for field in fields(Row))


def put(base: Path, row: Row) -> None:
    """Write a run's row, in place of the one before. ``base``: ``.perfdoc``. Raises OSError where that is not possible."""
    file = base / FOLDER / f"{row.id}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(vars(row)), encoding="utf-8")
    part.replace(file)


def rows(base: Path) -> list[Row]:
    """All runs below ``base``, the oldest first."""
    found = {row.id: row for file in (base / FOLDER).glob("*.json") if (row := _read(file)) is not None}
    for folder in (base / "runs").glob("*"):
        if folder.is_dir() and folder.name not in found:
            row = from_folder(folder)
            found[row.id] = row
    return sorted(found.values(), key=lambda row: row.id)


def _read(file: Path) -> Row | None:
    """The row in a file; None where it holds none that this version knows."""
    try:
        known = {name: value for name, value in json.loads(file.read_text(encoding="utf-8")).items() if name in COLUMNS}
        row = Row(**known)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return row if isinstance(row.id, str) and isinstance(row.kind, str) else None


def from_folder(folder: Path) -> Row:
    """A run's row from its capture; without figures where it has none, or it cannot be read."""
    from perfdoc.capture import document as captures

    try:
        capture = captures.read(folder)
    except PerfdocError:
        return Row(folder.name, "scan")
    return from_capture(capture)


def from_capture(capture: Any, plan: Any = None, commit: str | None = None) -> Row:
    """The row of a scan or a bench."""
    from perfdoc.diagnosis.diagnose import diagnose

    if plan is None and capture.loop is not None:
        plan = diagnose(capture).plan
    effect = plan.effect if plan is not None else None
    step = next((m.median for m in capture.measurements if m.metric == "step.time" and hasattr(m, "samples")), None)
    run = capture.run
    return Row(
        run.id, "bench-loader" if capture.loader is not None else "scan", run.started or None,
        json.dumps(run.command), run.outcome, None, run.seconds, step,
        plan.arm if plan is not None else None, effect.speedup if effect else None, effect.low if effect else None,
        effect.high if effect else None, commit,
    )
