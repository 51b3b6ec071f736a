"""What there is to look at and to type after a scan."""

from __future__ import annotations

from pathlib import Path

from perfdoc.core.treatment import config_id
from perfdoc.report import outcomes, patch_section
from perfdoc.report.first_screen import EVERYTHING, Next
from perfdoc.report.model import ReportModel


def next_steps(model: ReportModel, folder: Path, report: Path | None) -> Next:
    """The report, and commands in the order of their use. ``folder``: the run's, where its patch lies."""
    if model.diagnosis.capture.loop is None:
        return Next()
    commands = [*_patch(model, folder), *_longer(model)]
    if model.diagnosis.capture.blocks:
        commands.append(EVERYTHING)
    return Next(report, commands)


def _patch(model: ReportModel, folder: Path) -> list[tuple[str, str]]:
    """What the patch does, and what of the plan it leaves to the person."""
    plan, patch = model.diagnosis.plan, patch_section.read(folder)
    if plan is None or patch is None or not (plan.effect or plan.tried) or plan.note:
        return []
    seen = model.diagnosis.seen
    found = []
    if patch["lines"]:
        files = sorted({str(place).rsplit(":", 1)[0].rsplit("/", 1)[-1] for place in patch["edited"].values()})
        what = "it" if len(plan.changes) == 1 else "them"
        found.append(("perfdoc verify", "runs it in turns with your script as it is; changes no file"))
        found.append(("perfdoc apply", f"writes {what} into {', '.join(files)}"))
    left = [seen.change(config_id({part["slug"]: part["level"]})) for part in patch["snippets"]]
    if left:
        found.append(("by hand", f"{', '.join(left)}: the code is in the report"))
    return found


def _longer(model: ReportModel) -> list[tuple[str, str]]:
    """A larger budget, where it would settle what is open and nothing was found yet."""
    plan = model.diagnosis.plan
    budget = outcomes.budget_wanted(model.diagnosis)
    if budget is None or (plan is not None and plan.effect is not None and not plan.note):
        return []
    return [(f"perfdoc scan --budget {budget} {model.command}", "settles more")]
