"""The runs of a folder, in one SQLite file beside them: what was run when, and what came of it in a line.

The run's folder stays the truth: the store can be deleted, and is filled again from the captures. Several processes may write
at once (SQLite locks the file, writers wait); a run that is being written, or was killed, has a row without figures.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from perfdoc.core.errors import PerfdocError

FILE_NAME = "runs.sqlite"
WAIT = 30.0
"""Seconds that a writer waits for another one."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, started TEXT, command TEXT, outcome TEXT, pid INTEGER, seconds REAL,
    step_seconds REAL, plan TEXT, speedup REAL, low REAL, high REAL, commit_id TEXT
)
"""


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
        return "running" if self.pid is not None and _alive(self.pid) else "killed"

    @property
    def words(self) -> list[str]:
        """The command."""
        return list(json.loads(self.command)) if self.command else []


COLUMNS = tuple(field.name for field in fields(Row))


class Store:
    """``Store(Path(".perfdoc"))``. Raises PerfdocError where the file is no such store, or stays locked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / FILE_NAME

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = None
        try:
            connection = sqlite3.connect(self.file, timeout=WAIT)
            connection.execute(SCHEMA)
            with connection:
                yield connection
        except sqlite3.Error as error:
            raise PerfdocError(f"{self.file} cannot be used: {error}. Delete it: it is filled again from the runs.") from None
        finally:
            if connection is not None:
                connection.close()

    def put(self, row: Row) -> None:
        """Write a run's row, whole, in place of the one before."""
        with self._open() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO runs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
                [getattr(row, name) for name in COLUMNS],
            )

    def rows(self) -> list[Row]:
        """All runs, the oldest first; what lies in ``runs/`` and has no row yet is read from there."""
        found = {row.id: row for row in self._known()}
        for folder in sorted((self.folder / "runs").glob("*")):
            if folder.is_dir() and folder.name not in found:
                row = from_folder(folder)
                found[row.id] = row
                if row.outcome is not None:
                    self.put(row)
        return sorted(found.values(), key=lambda row: row.id)

    def _known(self) -> list[Row]:
        if not self.file.exists():
            return []
        with self._open() as connection:
            return [Row(*values) for values in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM runs")]


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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
