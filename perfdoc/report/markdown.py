"""The first screen as Markdown, for a pull request or an issue."""

from __future__ import annotations

from collections.abc import Sequence

from perfdoc.core.durations import seconds
from perfdoc.report import outcomes
from perfdoc.report.model import ReportModel

SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#"})


def render(model: ReportModel) -> str:
    """The answer, where the time goes, and what was tried. Everything from the user's machine is escaped."""
    first, *more = [_text(sentence) for sentence in model.answer]
    parts = [f"**{first}**", *more]
    if model.phases:
        parts.append(_table(("phase", "a step", "share", ""), [
            (_text(p.words), seconds(p.seconds), f"{p.share:.0%}", _text(model.sites.get(p.name, ""))) for p in model.phases
        ]))
    if model.rows:
        parts.append(_table(("change", "verdict", "a step becomes", "effort", "the numbers"), [
            tuple(map(_text, (row.change, row.verdict, row.effect, row.effort, row.numbers))) for row in model.rows
        ]))
        parts += [_text(note)] if (note := outcomes.footnote(model.rows)) else []
    counts = [line for line in vars(model.counts).values() if line]
    seen = [f"{finding.where}  {finding.title}" if finding.where else finding.title for finding in model.beside]
    parts += [_list(lines) for lines in (counts, seen, model.warnings) if lines]
    parts.append(f"<sub>{_text(f'perfdoc {model.kind} {model.command}')} · run {_text(model.run_id)}</sub>")
    return "\n\n".join(parts)


def _text(words: str) -> str:
    return " ".join(words.split()).translate(SPECIAL)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
