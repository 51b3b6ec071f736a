"""The stacks of a step as an icicle: a box for every line of the user's, as wide as its share, below the line that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perfdoc.diagnosis.line_causes import Row, relative
from perfdoc.diagnosis.time_by_line import TimeByLine

SMALLEST = 0.003
"""Minimum share of the step for a box of its own: less than that is no wider than two pixels."""
DEEPEST = 16
"""Maximum number of rows."""


@dataclass
class _Node:
    label: str
    title: str
    phase: str
    share: float = 0.0
    children: dict[str, _Node] = field(default_factory=dict)


def boxes(found: TimeByLine, directory: str) -> list[dict[str, Any]]:
    """Boxes from the outside in: label, title, phase, row, left edge and width as shares of the step."""
    root = _Node("a step", "", "")
    for row in found.rows:
        share = row.total / found.total if found.total else 0.0
        node = root
        node.share += share
        for key, label, title in _steps(row, directory)[:DEEPEST]:
            node = node.children.setdefault(key, _Node(label, title, row.phase))
            node.share += share
    placed: list[dict[str, Any]] = []
    _place(root, 0, 0.0, placed)
    return placed


def _steps(row: Row, directory: str) -> Sequence[tuple[str, str, str]]:
    """Key, label and title of every box of a stack."""
    steps = []
    for line in row.lines:
        where = f"{relative(line.file, directory)}:{line.line}"
        steps.append((where, f"{where}  {line.text or line.function}", line.function))
    worker = " in a worker" if row.in_worker else ""
    return [*steps, (f"what {row.what}{worker}", row.what, f"what runs there{worker}")]


def _place(node: _Node, depth: int, left: float, placed: list[dict[str, Any]]) -> None:
    placed.append({
        "label": node.label, "title": node.title, "phase": node.phase, "row": depth, "left": left, "width": node.share})
    for child in sorted(node.children.values(), key=lambda one: -one.share):
        if child.share >= SMALLEST:
            _place(child, depth + 1, left, placed)
        left += child.share
