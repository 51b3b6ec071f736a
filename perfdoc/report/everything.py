"""The long summary (``--all``): every change that was tried, every finding with its code, every note."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perfdoc.core.durations import seconds
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.report import cause_words, drawing, sample_words, summary
from perfdoc.report.figures import speedup
from perfdoc.report.first_screen import BAR, COLOURS, EVERYTHING, NOTHING, Next, what_next
from perfdoc.report.model import ReportModel
from perfdoc.report.outcomes import EFFORTS

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(model: ReportModel, width: int, after: Next = NOTHING, colour: bool = False) -> str:
    """The whole summary as text of at most ``width`` columns."""
    diagnosis = model.diagnosis
    parts: list[RenderableType] = [
        drawing.text(f"perfdoc {model.kind} {model.command} · run {model.run_id}", "bold"),
        drawing.text(summary.headline(diagnosis)),
    ]
    if diagnosis.capture.loop is not None:
        sections = [_about(diagnosis), _anatomy(model), _lines(model), _ceilings(diagnosis), _plan(diagnosis),
                    _tried(diagnosis), _estimates(diagnosis), _findings(diagnosis), _not_tried(diagnosis), _notes(diagnosis)]
        for section in filter(None, sections):
            parts += [drawing.text(""), *section]
    after = replace(after, commands=[command for command in after.commands if command != EVERYTHING])
    return drawing.drawn([*parts, *what_next(after)], width, colour)


def _about(diagnosis: Diagnosis) -> list[RenderableType]:
    loop = diagnosis.capture.loop
    assert loop is not None
    time = summary.step_time(diagnosis)
    spent = f"{seconds(time[0])} a step [{seconds(time[1])}, {seconds(time[2])}]" if time else "step time not measured"
    ranks = f", {loop.ranks} ranks" if loop.ranks > 1 else ""
    return [drawing.text(f"{summary.step_sentence(diagnosis)}; {spent} on {summary.device(diagnosis)}, "
                         f"{loop.cores:g} cores, {loop.threads} threads{ranks}")]


def _anatomy(model: ReportModel) -> list[RenderableType]:
    if not model.phases:
        return []
    rows = [(p.words, seconds(p.seconds), f"{p.share:.0%}", "█" * round(BAR * p.share)) for p in model.phases]
    return [drawing.table(("where the step's time goes", "", "", ""), rows, right=(1, 2))]


def _lines(model: ReportModel) -> list[RenderableType]:
    if not model.lines:
        return []
    rows = [(row.where, f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}]", cause_words.at_most(row.ceiling),
             " · ".join(filter(None, (row.function or row.text, row.what, "in workers" if row.in_worker else "",
                                f"{row.backward:.0%} of it backward" if row.backward > 0.005 else ""))))
            for row in model.lines]
    said = [drawing.table(("your lines, before anything was changed", "of the step", "without it", ""), rows, right=(1, 2))]
    return [*said, *([drawing.text(f"the run: {model.run}")] if model.run else [])]


def _ceilings(diagnosis: Diagnosis) -> list[RenderableType]:
    said = [*summary.ceilings(diagnosis), sample_words.sample_sentence(diagnosis)]
    return [drawing.text(line) for line in said if line]


def _plan(diagnosis: Diagnosis) -> list[RenderableType]:
    plan = diagnosis.plan
    if plan is None:
        return []
    effect = speedup(plan.effect) if plan.effect else "not confirmed"
    effect = f"{speedup(plan.tried)} when it was tried" if plan.tried else effect
    together = " together" if len(plan.changes) > 1 and plan.effect else ""
    text = f"PLAN  {' + '.join(plan.changes)}: {effect}{together}" + (f" ({plan.note})" if plan.note else "")
    more = [summary.numbers_sentence(diagnosis), summary.epoch_sentence(diagnosis), summary.expected_sentence(diagnosis)]
    return [drawing.text(text, style="bold"), *drawing.indented([line for line in more if line], 6)]


def _tried(diagnosis: Diagnosis) -> list[RenderableType]:
    codes = {arm: finding.code for finding in diagnosis.findings for arm in finding.arms}
    effort = {arm: EFFORTS[finding.effort] for finding in diagnosis.findings for arm in finding.arms}
    rows = [
        (speedup(arm.effect), drawing.text(arm.verdict, style=COLOURS.get(arm.verdict, "")),
         arm.change + (f" ({arm.note})" if arm.note else ""), effort.get(arm.arm, ""), codes.get(arm.arm, ""))
        for arm in summary.arms(diagnosis) if arm.verdict != "untestable here" and arm.effect is not None
    ]
    if not rows:
        return [drawing.text("nothing was tried often enough to say anything")]
    return [drawing.table(("tried in your loop", "verdict", "change", "effort", "rule"), rows)]


def _estimates(diagnosis: Diagnosis) -> list[RenderableType]:
    found, parts = summary.estimates(diagnosis), []
    if found:
        rows = [(f"  {speedup(effect)}", f"{effect.pairs} {'block' if effect.pairs == 1 else 'blocks'}", arm.change)
                for arm, effect in found]
        parts = [drawing.text(f"{summary.estimates_head(diagnosis)}:"), drawing.table(("", "", ""), rows)]
    unreached = summary.unreached(diagnosis)
    return [*parts, *([drawing.text(unreached)] if unreached else [])]


def _findings(diagnosis: Diagnosis) -> list[RenderableType]:
    """What was found beside the changes tried, or about one that is never part of a plan."""
    found = [f for f in diagnosis.findings
             if f.verdict != "untestable here"
             and (not f.arms or (f.effect and not all(diagnosis.seen.planned(arm) for arm in f.arms)))]
    rows = [(f.code, f.verdict, f"{f.where}  {f.title}" if f.where else f.title) for f in found]
    return [drawing.table(("", "", ""), rows)] if rows else []


def _not_tried(diagnosis: Diagnosis) -> list[RenderableType]:
    parts: list[RenderableType] = []
    untestable, already = summary.untestable(diagnosis), summary.already_on(diagnosis)
    if untestable:
        parts += [drawing.text("untestable here:"), *drawing.indented([f"- {what}: {why}" for what, why in untestable], 2, 2)]
    if already:
        parts.append(drawing.text("already on: " + "; ".join(f"{what} ({why})" for what, why in already)))
    return parts


def _notes(diagnosis: Diagnosis) -> list[RenderableType]:
    return drawing.indented([f"note: {note}" for note in summary.notes(diagnosis)], 0, 6)
