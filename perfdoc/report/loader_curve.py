"""The worker curve of the report: samples a second by number of workers, with what the step takes as a line."""

from __future__ import annotations

import math
from typing import Any

from perfdoc.capture.records import BenchedLoader
from perfdoc.loader_bench.answer import LoaderAnswer, Row, words_of
from perfdoc.report import loader_table

WIDTH, HEIGHT = 1000, 240


def section(answer: LoaderAnswer, about: BenchedLoader | None) -> dict[str, Any]:
    """What the template shows: curves, table, notes."""
    measured = [row for row in answer.rows if row.rate is not None]
    heads, lines = loader_table.lines(answer)
    in_samples = all(answer.batch_samples(row) for row in measured)
    series: dict[str, list[Row]] = {}
    for row in measured:
        rest = {name: value for name, value in row.setting.items() if name != "workers"}
        series.setdefault(words_of(rest), []).append(row)
    return {
        "introduction": loader_table.introduction(answer, about) if about is not None else "",
        "curves": [_curve(answer, title, rows, in_samples) for title, rows in series.items() if len(rows) > 1],
        "unit": "Samples" if in_samples else "Batches", "heads": heads,
        "rows": [{"figures": line, "chosen": row is answer.recommended} for row, line in zip(measured, lines, strict=True)],
        "notes": loader_table.notes(answer, about),
    }


def _curve(answer: LoaderAnswer, title: str, rows: list[Row], in_samples: bool) -> dict[str, Any]:
    def scale(row: Row) -> float:
        return (answer.batch_samples(row) or 1.0) if in_samples else 1.0

    last = max(1, max(row.workers for row in rows))
    size = (answer.demand_size or scale(rows[0])) if in_samples else 1.0
    demand = answer.demand * size if answer.demand is not None else None
    highest = max([(answer.bounds(row) or (0.0, row.rate or 0.0))[1] * scale(row) for row in rows])
    # A demand far above what the loader can do must not flatten the curve.
    shown = demand if demand is not None and demand < 3 * highest else None
    top = max(highest, shown or 0.0) * 1.08

    def x(workers: int) -> float:
        return round(WIDTH * (0.02 + 0.96 * workers / last), 1)

    def y(value: float) -> float:
        return round(HEIGHT * (1 - min(1.0, value / top)), 1)

    points = []
    for row in rows:
        assert row.rate is not None
        bounds = answer.bounds(row)
        points.append({
            "x": x(row.workers), "y": y(row.rate * scale(row)), "chosen": row is answer.recommended,
            "low": y(bounds[0] * scale(row)) if bounds else None, "high": y(bounds[1] * scale(row)) if bounds else None,
            "title": f"{row.words}: {answer.speed(row)}, {len(row.visits)} visits",
        })
    step = _round_step(top / 4)
    return {
        "title": title, "points": points, "line": " ".join(f"{p['x']},{p['y']}" for p in points),
        "ticks": [{"y": y(step * n), "label": f"{step * n:g}"} for n in range(int(top / step) + 1)],
        "counts": [{"x": x(row.workers), "label": row.workers} for row in rows],
        "demand": {"y": y(shown), "label": f"the step takes {shown:.4g}"} if shown is not None else None,
    }


def _round_step(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step for step in (1, 2, 2.5, 5, 10) if step * power >= value) * power)
