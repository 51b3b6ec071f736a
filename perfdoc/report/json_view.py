"""What ``--json`` prints: everything that the other views show, for programs."""

from __future__ import annotations

from typing import Any

from perfdoc.core.typed_json import to_json
from perfdoc.report import summary
from perfdoc.report.model import ReportModel


def as_json(model: ReportModel) -> dict[str, Any]:
    """The report as plain data. Intervals are 95% ones; durations in seconds."""
    diagnosis = model.diagnosis
    plan = diagnosis.plan
    return {
        "run": to_json(diagnosis.capture.run),
        "answer": list(model.answer),
        "headline": summary.headline(diagnosis),
        "loop": to_json(diagnosis.capture.loop),
        "step_seconds": summary.step_time(diagnosis),
        "anatomy": {phase.name: phase.seconds for phase in summary.anatomy(diagnosis)},
        "lines": [to_json(row) for row in model.lines],
        "outside_steps": diagnosis.seen.lines.outside_steps if diagnosis.seen.lines else None,
        "between_steps": [
            {"where": f"{one.line.file}:{one.line.line}", "what": one.what, "share": one.share, "ceiling": one.ceiling}
            for one in (diagnosis.seen.lines.between if diagnosis.seen.lines else [])
        ],
        "ceilings": {
            "loader_seconds": list(summary.samples(diagnosis, "loader.ceiling")),
            "compute": (effect.to_json() if (effect := diagnosis.seen.free_loader) else None),
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
