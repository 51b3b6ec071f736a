"""The terminal that a report is written for, and a script's own failure on it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from perfdoc.capture.document import Capture

TAIL_LINES = 30
"""Lines of the script's output that are shown where it failed without a traceback."""


def columns() -> int:
    """Width to write for: the terminal's, between 60 and 120."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def colours() -> bool:
    """Whether the output may be coloured: on a terminal, and where NO_COLOR (no-color.org) is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def show_failure(capture: Capture, log: Path, from_log: bool) -> None:
    """The script's own failure on stderr: its traceback as Python printed it, and one line of ours."""
    if from_log and log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        starts = [place for place, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        shown = lines[starts[-1]:] if starts and capture.failure else lines[-TAIL_LINES:]
        if shown:
            click.echo("\n".join(shown[-3 * TAIL_LINES:]), err=True)
    click.echo(f"perfdoc: {capture.run.reason}", err=True)
    if from_log and log.exists():
        click.echo(f"perfdoc: all of its output is in {log}", err=True)
