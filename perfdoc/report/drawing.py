"""Drawing with ``rich``, for terminals and pipes alike: what is here knows no report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal takes for commands: in a file name they would move its cursor or change its colours."""


def text(words: str, style: str = "") -> Text:
    """The words as they stand: neither markup of ``rich`` nor a terminal's escape sequences in them do anything."""
    from rich.text import Text

    return Text(CONTROL.sub("?", words), style=style)


def drawn(parts: Sequence[RenderableType], width: int, colour: bool = False) -> str:
    """The parts below each other as text of ``width`` columns, with escape sequences where ``colour`` is wanted."""
    from rich.console import Console

    out = StringIO()
    colours: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=out, width=width, force_terminal=colour, color_system=colours, highlight=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def indented(lines: Sequence[str], columns: int = 2, hanging: int = 0) -> list[RenderableType]:
    """Paragraphs that begin at ``columns``, their later lines ``hanging`` columns further in."""
    from rich.padding import Padding
    from rich.table import Table

    if not hanging:
        return [Padding(text(line), (0, 0, 0, columns)) for line in lines]
    drawn_lines: list[RenderableType] = []
    for line in lines:
        head, _, rest = line.partition(" ")
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=hanging - 1, no_wrap=True)
        table.add_column()
        table.add_row(text(head), text(rest))
        drawn_lines.append(Padding(table, (0, 0, 0, columns)))
    return drawn_lines


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> RenderableType:
    """A table without lines; cells are text or ``rich.text.Text``; the columns in ``right`` are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    drawn_table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="", show_header=any(heads))
    for place, head in enumerate(heads):
        drawn_table.add_column(head, justify="right" if place in right else "left", overflow="fold")
    for row in rows:
        drawn_table.add_row(*[cell if isinstance(cell, Text) else text(str(cell)) for cell in row])
    return drawn_table
