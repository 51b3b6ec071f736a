"""The first screen: the answer, where the time goes, what helps and what hurts, and what to type next."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfdoc.core.durations import seconds
from perfdoc.report import drawing, outcomes
from perfdoc.report.model import ReportModel

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_LINES = 30
"""Maximum number of lines of the first screen, because a terminal of the usual size shows so many beside the prompt."""
MOST_ROWS = 8
"""Maximum number of changes with a row of their own."""
MOST_SEEN = 3
"""Maximum number of lines of the script, or states of the machine, that are named beside the changes."""
BAR = 20
"""Width of a phase that takes the whole step, in characters."""
SMALLEST_PHASE = 0.02
"""Minimum share of the step for a phase to have a line of its own: less makes no difference, whatever is done about it."""
LONGEST_COMMAND = 44
"""Maximum width of a command that is named, in characters: a longer one is the user's own and known to them."""
COLOURS = {"helps": "green", "in the plan": "green", "hurts": "red"}


@dataclass(frozen=True)
class Next:
    """What there is to look at and to type after a scan."""

    report: Path | None = None
    commands: Sequence[tuple[str, str]] = ()
    """Commands with what each does."""


NOTHING = Next()
EVERYTHING = ("perfdoc report --all", "shows every change that was tried, every finding and note")


@dataclass(frozen=True)
class _Room:
    """How much of each part is shown."""

    rows: int
    seen: int
    phase: float


ROOMS = [
    *(_Room(MOST_ROWS, seen, SMALLEST_PHASE) for seen in range(MOST_SEEN, 0, -1)),
    *(_Room(rows, 1, SMALLEST_PHASE) for rows in range(MOST_ROWS, 3, -1)),
    *(_Room(rows, 0, phase) for phase in (SMALLEST_PHASE, 0.05, 0.1) for rows in (4, 3, 2)),
]
"""What is tried, one after the other, until it fits: findings give way first, then the last rows, then small phases."""


def render(model: ReportModel, width: int, after: Next = NOTHING, colour: bool = False) -> str:
    """The first screen as text of ``width`` columns, and of at most ``MOST_LINES`` lines wherever the words allow it."""
    text = ""
    for room in ROOMS:
        text = drawing.drawn(_parts(model, after, room), width, colour)
        if len(text.splitlines()) <= MOST_LINES:
            break
    return text


def _parts(model: ReportModel, after: Next, room: _Room) -> list[RenderableType]:
    parts: list[RenderableType] = [_title(model), drawing.text("")]
    parts += [drawing.text(sentence, style="bold" if place == 0 else "") for place, sentence in enumerate(model.answer)]
    if model.phases:
        parts += [drawing.text(""), _anatomy(model, room.phase)]
    if model.rows:
        note = outcomes.footnote(model.rows[:room.rows])
        parts += [drawing.text(""), _rows(model, room.rows), *drawing.indented([note] if note else [])]
    more = len(model.rows) - room.rows
    lines = [f"{more} more {'rows' if more > 1 else 'row'}: perfdoc report --all"] if more > 0 else []
    lines += [line for line in (model.counts.no_difference, model.counts.unsettled, model.counts.impossible,
                                model.counts.failed) if line]
    if lines:
        parts += [drawing.text(""), *drawing.indented(lines)]
    seen = [f"{finding.where}  {finding.title}" if finding.where else finding.title for finding in model.beside]
    if seen[:room.seen]:
        rest = f" ({len(seen) - room.seen} more: perfdoc report --all)" if len(seen) > room.seen else ""
        parts += [drawing.text(""), drawing.text(f"also seen{rest}"), *drawing.indented(seen[:room.seen])]
    if model.warnings:
        parts += [drawing.text(""), *drawing.indented([f"note: {warning}" for warning in model.warnings], 2, 6)]
    return [*parts, *what_next(after)]


def _title(model: ReportModel) -> RenderableType:
    from rich.table import Table
    table = Table.grid(expand=True, padding=(0, 2))
    table.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(drawing.text(f"perfdoc {model.kind} {model.command}", style="dim"),
                  drawing.text(f"run {model.run_id}", style="dim"))
    return table


def _anatomy(model: ReportModel, smallest: float) -> RenderableType:
    rows: list[tuple[str, ...]] = [
        (f"  {phase.words}", seconds(phase.seconds), f"{phase.share:.0%}", "█" * max(1, round(BAR * phase.share)),
         model.sites.get(phase.name, ""))
        for phase in model.phases if phase.share >= smallest
    ]
    small = [phase for phase in model.phases if phase.share < smallest]
    if len(small) > 1:
        rows.append(("  the rest", seconds(sum(p.seconds for p in small)), f"{sum(p.share for p in small):.0%}", "", ""))
    if model.run:
        rows.append(("  the run", "", "", "", model.run))
    return drawing.table(("",) * 5, rows, right=(1, 2))


def _rows(model: ReportModel, most: int) -> RenderableType:
    shown = model.rows[:most]
    numbers = any(row.numbers for row in shown)
    becomes = "a step becomes" if outcomes.footnote(shown) else "alone, a step becomes"
    heads = ("  tried in your loop", "", becomes, "effort", *(["the numbers"] if numbers else []))
    return drawing.table(heads, [
        (f"  {row.change}", drawing.text(row.verdict, style=COLOURS.get(row.verdict, "")), row.effect, row.effort,
         *([row.numbers] if numbers else []))
        for row in shown
    ])


def what_next(after: Next) -> list[RenderableType]:
    """The report's path, and the commands with what each does."""
    from rich.table import Table

    parts: list[RenderableType] = [drawing.text("")]
    if after.report is not None:
        parts.append(drawing.text(f"  report  {os.path.relpath(after.report)}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(width=8)
    table.add_column(max_width=LONGEST_COMMAND, overflow="ellipsis", no_wrap=True)
    table.add_column(overflow="fold")
    for place, (command, what) in enumerate(after.commands):
        table.add_row("  next" if place == 0 else "", drawing.text(command, "bold"), drawing.text(what))
    if after.commands:
        parts.append(table)
    return parts if len(parts) > 1 else []
