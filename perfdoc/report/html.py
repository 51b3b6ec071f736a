"""The HTML report: one file, no network, light and dark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from perfdoc.core.blocks import CONTROL_ARM
from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect
from perfdoc.decoder_bench import answer as decoder_answer
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.diagnosis.rule import discover_rules
from perfdoc.loader_bench import answer as loader_answer
from perfdoc.loader_bench import samples as sample_answer
from perfdoc.report import cause_words, decoder_table, figures, icicle, loader_curve, patch_section, sample_table, summary
from perfdoc.report.model import ReportModel


def write(model: ReportModel, path: Path) -> Path:
    """Render the report into ``path``."""
    path.write_text(render(model, path.parent), encoding="utf-8")
    return path


def render(model: ReportModel, folder: Path | None = None) -> str:
    """The report as HTML. Everything from the user's machine is escaped by the template engine.

    ``folder``: the run's, where its patch lies and what ``perfdoc verify`` measured.
    """
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("perfdoc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters["seconds"] = seconds
    env.filters["speedup"] = figures.speedup
    env.filters["realised"] = figures.realised
    env.filters["at_most"] = cause_words.at_most
    diagnosis, capture = model.diagnosis, model.diagnosis.capture
    sample, decoders = sample_answer.read(capture.measurements), decoder_answer.read(capture.measurements)
    loader = loader_answer.read(capture.measurements, capture.experiment.failed)
    if loader is not None and loader.recommended is None:
        loader = None
    boxes = icicle.boxes(diagnosis.seen.lines, capture.run.directory) if diagnosis.seen.lines else []
    return env.get_template("report.html.j2").render(
        sample=sample and {"parts": sample.parts, "notes": sample_table.notes(sample)},
        decoders=decoders and decoder_section(decoders),
        loader=loader and loader_curve.section(loader, capture.loader),
        run=capture.run, loop=capture.loop, machine=capture.machine if capture.machine.system else None,
        environment=capture.environment if capture.environment.python else None,
        device=summary.device(diagnosis), command=model.command,
        answer=(loader.sentence,) if loader and not capture.blocks else model.answer,
        step=summary.step_sentence(diagnosis), time=summary.step_time(diagnosis),
        lines=model.lines, run_words=model.run, icicle=boxes, rows=1 + max((box["row"] for box in boxes), default=0),
        anatomy=model.phases, ceilings=summary.ceilings(diagnosis), plan=diagnosis.plan,
        expected=summary.expected_sentence(diagnosis),
        epoch=summary.epoch_sentence(diagnosis), numbers=summary.numbers_sentence(diagnosis),
        estimates=summary.estimates(diagnosis), estimates_head=summary.estimates_head(diagnosis),
        forest=forest(diagnosis), timeline=timeline(diagnosis), groups=summary.grouped(diagnosis),
        untestable=summary.untestable(diagnosis), already=summary.already_on(diagnosis),
        notes=[*filter(None, [summary.unreached(diagnosis)]), *summary.notes(diagnosis)],
        patch=patch_section.read(folder) if folder is not None and diagnosis.plan else None,
        withheld=diagnosis.seen.withheld, docs={rule.code: rule.sections() for rule in discover_rules()},
        guard=capture.guard, smallest=diagnosis.seen.smallest_effect, coarse=diagnosis.seen.is_coarse,
    )


def decoder_section(answer: decoder_answer.DecoderAnswer) -> dict[str, Any]:
    """Table, bars and notes on decoders; bars in percent of the fastest."""
    heads, lines = decoder_table.lines(answer)
    rates = [row.rate("in workers") or row.rate("alone") or 0.0 for row in answer.rows if not row.missing]
    top = max(rates, default=1.0) or 1.0
    return {"heads": heads, "rows": [{"figures": line, "share": round(100 * rate / top, 1)}
                                     for line, rate in zip(lines, rates, strict=True)], "notes": decoder_table.notes(answer)}


def forest(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Rows and axis of the forest plot; positions in percent of its width, on a logarithmic axis."""
    rows: list[tuple[str, str, Effect, str]] = [
        (arm.change, arm.verdict, arm.effect, arm.note) for arm in summary.arms(diagnosis) if arm.effect is not None
    ]
    plan = diagnosis.plan
    if plan is not None and plan.effect is not None:
        rows.insert(0, ("The plan: " + " + ".join(plan.changes), "plan", plan.effect, "measured after it was chosen"))
    aa = diagnosis.seen.effect("A/A")
    if aa is not None:
        rows.append(("control against itself (A/A)", "control", aa, "must include 1"))
    if not rows:
        return None
    # Wide intervals of unsettled arms must not squeeze the others: the axis follows estimates and settled intervals.
    known = [(verdict, e) for _, verdict, e, _ in rows if e.known]
    settled = [e for verdict, e in known if verdict not in ("undecided", "withheld")] or [e for _, e in known]
    low = min([0.9, *(e.low for e in settled), *(e.speedup for _, e in known)]) * 0.97
    high = max([1.15, *(e.high for e in settled), *(e.speedup for _, e in known)]) * 1.03
    span = math.log(high / low)

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, math.log(max(value, 1e-9) / low) / span)), 2)

    round_ones = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
    ticks = [t for t in round_ones if low <= t <= high]
    while len(ticks) > 7:
        ticks = [t for place, t in enumerate(ticks) if t == 1.0 or place % 2]
    return {
        "rows": [
            {"label": label, "verdict": verdict, "effect": e, "note": note, "low": at(e.low), "high": at(e.high),
             "center": at(e.speedup)}
            for label, verdict, e, note in rows
        ],
        "ticks": [{"at": at(t), "label": f"{t:g}x"} for t in ticks],
        "one": at(1.0),
    }


def timeline(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Every block in the order it ran: seconds a step by arm, for an SVG of 1000 x 240 units."""
    blocks = sorted((b for b in diagnosis.capture.blocks if b.count), key=lambda b: (b.lap, b.i))
    if len(blocks) < 3:
        return None
    per_step = [b.pace for b in blocks]
    # One stalled block must not flatten the picture: the axis ends at the 98th percentile, what is above is drawn at its edge.
    top = sorted(per_step)[min(len(per_step) - 1, int(0.98 * len(per_step)))] * 1.08
    names = [CONTROL_ARM, *dict.fromkeys(b.arm for b in blocks if b.arm != CONTROL_ARM)]
    points = [
        {
            "x": round(1000 * (place + 0.5) / len(blocks), 1),
            "y": round(240 * (1 - min(1.0, value / top)), 1),
            "arm": names.index(block.arm),
            "title": f"{block.arm} · {seconds(value)} a step · block {block.i} ({block.phase})",
        }
        for place, (block, value) in enumerate(zip(blocks, per_step, strict=True))
    ]
    phases = []
    for place, block in enumerate(blocks):
        if place == 0 or block.phase != blocks[place - 1].phase:
            phases.append({"x": round(1000 * place / len(blocks), 1), "name": block.phase})
    control = [p for p in points if p["arm"] == 0]
    return {
        "points": points,
        "line": " ".join(f"{p['x']},{p['y']}" for p in control),
        "arms": [{"place": place, "plan": diagnosis.plan is not None and name == diagnosis.plan.arm,
                  "name": diagnosis.seen.change(name) if name not in (CONTROL_ARM, "A/A") else name}
                 for place, name in enumerate(names)],
        "ticks": [
            {"y": round(240 * (1 - share), 1), "label": seconds(top * share)} for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        ],
        "phases": phases,
    }
