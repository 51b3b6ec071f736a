"""``perfdoc runs``: what was run here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from perfdoc.commands._run_list import Row


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(as_json: bool) -> None:
    """List the runs in .perfdoc, the newest last."""
    from perfdoc.commands._run_list import rows as listed
    from perfdoc.report.figures import command_line

    rows = listed(Path(".perfdoc"))
    if as_json:
        click.echo(json.dumps([{**vars(row), "state": row.state, "command": row.words} for row in rows], indent=1))
        return
    if not rows:
        click.echo("no runs in .perfdoc here. Start one with `perfdoc scan train.py`.")
        return
    from tabulate import tabulate

    lines = [
        (row.id, row.kind, row.state, f"{row.step_seconds * 1e3:.1f} ms" if row.step_seconds else "",
         _effect(row), row.plan or "",
         command_line(row.words)[:60])
        for row in rows
    ]
    click.echo(tabulate(lines, headers=["run", "what", "state", "step", "plan's effect", "plan", "command"]))


def _effect(row: Row) -> str:
    """The plan's speed-up with its interval; empty where there is none."""
    from perfdoc.core.finding import says_nothing

    if row.speedup is None or row.low is None or row.high is None:
        return ""
    return "not known yet" if says_nothing(row.low, row.high) else f"{row.speedup:.2f}x [{row.low:.2f}, {row.high:.2f}]"
