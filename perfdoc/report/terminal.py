"""The summary on the terminal: one screen."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from perfdoc.capture.document import Capture
from perfdoc.core.typed_json import to_json
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.report import summary
from perfdoc.report.figures import command_line, seconds, speedup

BAR = 30
TAIL_LINES = 30


def columns() -> int:
    """Width to write for: the terminal's, between 60 and 120."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def render(diagnosis: Diagnosis, width: int = 100) -> str:
    """The whole summary as text."""
    capture = diagnosis.capture
    run = capture.run
    title = f"perfdoc scan · {command_line(run.command)} · run {run.id}"
    out = ["", *(click.style(line, bold=True) for line in textwrap.wrap(title, width))]
    out += textwrap.wrap(summary.headline(diagnosis), width)
    if capture.loop is None:
        return "\n".join(out)
    out += ["", *textwrap.wrap(_about(diagnosis), width), "", _anatomy(diagnosis)]
    ceilings = summary.ceilings(diagnosis)
    if ceilings:
        out += [""] + [line for text in ceilings for line in textwrap.wrap(text, width, subsequent_indent="  ")]
    out += textwrap.wrap(summary.sample_sentence(diagnosis), width, subsequent_indent="  ")
    plan = diagnosis.plan
    if plan is not None:
        effect = speedup(plan.effect) if plan.effect else "not confirmed"
        effect = f"{speedup(plan.tried)} when it was tried" if plan.tried else effect
        together = " together" if len(plan.changes) > 1 and plan.effect else ""
        text = f"PLAN  {' + '.join(plan.changes)}: {effect}{together}" + (f" ({plan.note})" if plan.note else "")
        out += ["", *(click.style(line, bold=True) for line in textwrap.wrap(text, width, subsequent_indent="      "))]
        out += textwrap.wrap(summary.numbers_sentence(diagnosis), width, initial_indent="      ", subsequent_indent="      ")
        out += textwrap.wrap(summary.epoch_sentence(diagnosis), width, initial_indent="      ", subsequent_indent="      ")
        out += textwrap.wrap(summary.expected_sentence(diagnosis), width, initial_indent="      ", subsequent_indent="      ")
    out += ["", _arms(diagnosis, width)]
    estimates = summary.estimates(diagnosis)
    if estimates:
        out += ["", *textwrap.wrap(f"{summary.estimates_head(diagnosis)}:", width)]
        rows = [(f"  {speedup(effect)}", f"{effect.pairs} {'block' if effect.pairs == 1 else 'blocks'}", arm.change)
                for arm, effect in estimates]
        out += [*tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines(), ""]
    out += textwrap.wrap(summary.unreached(diagnosis), width, subsequent_indent="  ")
    beside = [
        f for f in diagnosis.findings
        if not f.arms or (f.effect and not all(diagnosis.seen.planned(arm) for arm in f.arms))
    ]
    for finding in beside:
        if finding.verdict == "untestable here":
            continue
        out += textwrap.wrap(f"{finding.code} {finding.verdict}: {finding.title}", width, subsequent_indent="  ")
    out += _lists(diagnosis, width)
    return "\n".join(out)


def _about(diagnosis: Diagnosis) -> str:
    loop = diagnosis.capture.loop
    assert loop is not None
    time = summary.step_time(diagnosis)
    spent = f"{seconds(time[0])} a step [{seconds(time[1])}, {seconds(time[2])}]" if time else "step time not measured"
    ranks = f", {loop.ranks} ranks" if loop.ranks > 1 else ""
    return (
        f"{summary.step_sentence(diagnosis)}; {spent} on {summary.device(diagnosis)}, {loop.cores:g} cores, "
        f"{loop.threads} threads{ranks}"
    )


def _anatomy(diagnosis: Diagnosis) -> str:
    phases = summary.anatomy(diagnosis)
    rows = [(p.words, seconds(p.seconds), f"{p.share:.0%}", "█" * round(BAR * p.share)) for p in phases]
    return tabulate(rows, headers=["where the step's time goes", "", "", ""], tablefmt="plain",
                    colalign=("left", "right", "right", "left"))


EFFORTS = {"one line": "one line", "a few lines": "few lines", "a change of design": "design"}
_COLOURS = {"helps": "green", "hurts": "red"}


def _arms(diagnosis: Diagnosis, width: int) -> str:
    codes = {arm: finding.code for finding in diagnosis.findings for arm in finding.arms}
    effort = {arm: EFFORTS[finding.effort] for finding in diagnosis.findings for arm in finding.arms}
    lines = []
    for arm in summary.arms(diagnosis):
        if arm.verdict == "untestable here" or arm.effect is None:
            continue  # the first are listed with their reasons, the others in one sentence
        lines.append((speedup(arm.effect), arm.verdict, arm.change, effort.get(arm.arm, ""), codes.get(arm.arm, ""), arm.note))
    if not lines:
        return "nothing was tried often enough to say anything"
    heads = ("tried in your loop", "verdict", "change", "effort", "rule", "")
    widths = [max(len(row[place]) for row in (heads, *lines)) for place in range(len(heads))]
    # Two spaces between columns; the change may take what the others leave, the note goes below where there is no room.
    left = width - sum(widths[place] for place in (0, 1, 3, 4)) - 2 * 5
    below = widths[2] + widths[5] > left
    room = max(16, left if below else left - widths[5])
    rows: list[tuple[str, ...]] = []
    for effect, verdict, change, how, code, note in lines:
        said = click.style(verdict, fg=_COLOURS.get(verdict))
        first, *more = textwrap.wrap(change, room) or [""]
        rows.append((effect, said, first, how, code, "" if below else note))
        rows += [("", "", line, "", "", "") for line in more]
        if below and note:
            rows += [("", "", line, "", "", "") for line in textwrap.wrap(note, room)]
    return tabulate(rows, headers=heads, tablefmt="plain")


def _lists(diagnosis: Diagnosis, width: int) -> list[str]:
    out: list[str] = []
    untestable, already = summary.untestable(diagnosis), summary.already_on(diagnosis)
    if untestable:
        out += ["", "untestable here:"]
        for what, why in untestable:
            out += textwrap.wrap(f"- {what}: {why}", width, initial_indent="  ", subsequent_indent="    ")
    if already:
        said = "already on: " + "; ".join(f"{what} ({why})" for what, why in already)
        out += ["", *textwrap.wrap(said, width, subsequent_indent="  ")]
    notes = summary.notes(diagnosis)
    if notes:
        out.append("")
    for note in notes:
        out += textwrap.wrap(f"note: {note}", width, subsequent_indent="      ")
    return out


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """What ``--json`` prints."""
    plan = diagnosis.plan
    return {
        "run": to_json(diagnosis.capture.run),
        "headline": summary.headline(diagnosis),
        "loop": to_json(diagnosis.capture.loop),
        "step_seconds": summary.step_time(diagnosis),
        "anatomy": {phase.name: phase.seconds for phase in summary.anatomy(diagnosis)},
        "ceilings": {
            "loader_seconds": list(summary.samples(diagnosis, "loader.ceiling")),
            "compute": (effect.to_json() if (effect := diagnosis.seen.effect("compute_ceiling=on")) else None),
        },
        "arms": [
            {"arm": arm.arm, "change": arm.change, "verdict": arm.verdict, "note": arm.note,
             "effect": arm.effect.to_json() if arm.effect else None,
             "estimate": shown.to_json() if (shown := diagnosis.seen.estimate(arm.arm)) else None}
            for arm in summary.arms(diagnosis)
        ],
        "findings": [finding.to_json() for finding in diagnosis.findings],
        "plan": None if plan is None else {
            "changes": list(plan.changes), "arm": plan.arm, "note": plan.note,
            "effect": plan.effect.to_json() if plan.effect else None,
            "numerics": plan.numerics,
            "predicted": plan.expected.to_json() if plan.expected else None,
            "epoch_effect": plan.epoch.to_json() if plan.epoch else None,
        },
        "untestable": [{"what": what, "why": why} for what, why in summary.untestable(diagnosis)],
        "already_on": [{"what": what, "why": why} for what, why in summary.already_on(diagnosis)],
        "withheld": diagnosis.seen.withheld,
        "smallest_effect": diagnosis.seen.smallest_effect,
        "notes": summary.notes(diagnosis),
    }


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
