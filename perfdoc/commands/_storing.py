"""Writes a run's row; a list that cannot be written never stops a run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from perfdoc.commands._run_list import Row


def keep(folder: Path, row: Row) -> None:
    """Put the row of the run in ``folder`` (``<base>/runs/<id>``) into the base's list."""
    from perfdoc.commands._run_list import put

    try:
        put(folder.parent.parent, row)
    except OSError as error:
        click.echo(f"perfdoc: the list of runs could not be written: {error.strerror or error}", err=True)


def commit() -> str | None:
    """The commit that is checked out, with ``+`` where tracked files are changed; None outside of a checkout."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True,
                               timeout=30)
        dirty = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True,
                               check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() + ("+" if dirty.stdout.strip() else "")
