"""Paths as the capture keeps them: lines once, by number, and the time of rare paths at the place that they came from."""

from __future__ import annotations

import linecache
import os
from collections.abc import Mapping

from perfdoc.capture.lines import Line, StackPath
from perfdoc.inject.lines.stack_path import PYTHON, Path, Place

LEAST_SHARE = 0.001
"""Minimum share of the time for a stack to be kept in full; the time of rarer ones is kept at the place that they came from."""
LONGEST_TEXT = 160
"""Maximum length of a line of source that is kept, in characters."""


class LineTable:
    """Lines by number, and paths that refer to them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._numbers: dict[Place, int] = {}

    def _number(self, place: Place) -> int:
        if place not in self._numbers:
            self._numbers[place] = len(self.lines)
            text = "" if place.package else linecache.getline(place.file, place.line).strip()[:LONGEST_TEXT]
            file = place.file if place.package else os.path.abspath(place.file)
            self.lines.append(Line(file, place.line, place.function, place.package, text))
        return self._numbers[place]

    def paths(self, seconds: Mapping[tuple[Path, int], float], stretches: int) -> list[StackPath]:
        """The paths, the longest first, with their seconds in each stretch."""
        rows: dict[Path, list[float]] = {}
        for (path, stretch), value in seconds.items():
            rows.setdefault(path, [0.0] * stretches)[stretch] += value
        least = LEAST_SHARE * sum(map(sum, rows.values()))
        shorten(rows, least)
        order = sorted(rows, key=lambda path: -sum(rows[path]))
        return [StackPath([self._number(place) for place in path.places], path.phase, path.leaf,
                          [round(value, 6) for value in rows[path]]) for path in order]


def shorten(rows: dict[Path, list[float]], least: float) -> None:
    """Keep the time of rare paths at the place that they came from, until nothing rarer than ``least`` is left with one."""
    depth = max((len(path.places) for path in rows), default=0)
    while depth:
        for path in [p for p in rows if len(p.places) == depth and sum(rows[p]) < least]:
            values = rows.pop(path)
            parent = Path(path.places[:-1] or path.places, path.phase, PYTHON)
            into = rows.setdefault(parent, [0.0] * len(values))
            rows[parent] = [a + b for a, b in zip(into, values, strict=True)]
        depth -= 1
