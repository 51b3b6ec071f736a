"""What came of everything that was asked: the rows that matter, and the rest in counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perfdoc.core import stats
from perfdoc.core.blocks import AA_ARM
from perfdoc.core.finding import Finding, counted
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.report import summary
from perfdoc.report.figures import changed

EFFORTS = {"one line": "one line", "a few lines": "few lines", "a change of design": "a redesign"}
GPU = re.compile(r"GPU|CUDA|\bdevices? need", re.IGNORECASE)
"""Reasons for which a change cannot be tried on a machine without a GPU."""


BESIDE = "≈"
"""Before an effect that a change has beside the others of its stacks, not alone."""


@dataclass(frozen=True)
class Row:
    """One change that was tried, with what it makes of the step."""

    change: str
    """As a person types it."""
    verdict: str
    effect: str
    effort: str
    numbers: str
    """What it does to the training's numbers; empty where it does not touch them."""


@dataclass(frozen=True)
class Counts:
    """The questions that have no row, in one line each; empty where there are none."""

    unsettled: str
    no_difference: str
    impossible: str
    failed: str


def rows(diagnosis: Diagnosis) -> list[Row]:
    """The parts of the plan, then what helps, then what hurts; each by how much."""
    seen, efforts = diagnosis.seen, _efforts(diagnosis)
    planned: list[tuple[float, Row]] = []
    helping: list[Row] = []
    hurting: list[Row] = []
    for arm in summary.arms(diagnosis):
        in_plan = seen.in_plan(arm.arm)
        effect = arm.effect
        if in_plan and arm.verdict == "undecided":
            effect = seen.estimate(arm.arm) or effect
        if arm.verdict in ("untestable here", "withheld") or (effect is None and not in_plan):
            continue
        text = changed(effect) if effect else "only tried with the others"
        if effect and effect.known and effect.how == "estimated from stacks":
            text = f"{BESIDE} {text}"
        text += ", samples a second" if seen.samples_differ(arm.arm) else ""
        row = Row(arm.change, "in the plan" if in_plan else arm.verdict, text, efforts.get(arm.arm, ""),
                  seen.numerics(arm.arm) if in_plan or arm.verdict == "helps" else "")
        single = len(config_from_id(arm.arm)) == 1
        if in_plan and single:
            planned.append((effect.speedup if effect and effect.known else 0.0, row))
        elif arm.verdict == "helps":
            helping.append(row)
        elif arm.verdict == "hurts" and single:
            hurting.append(row)
    first = [row for _, row in sorted(planned, key=lambda entry: -entry[0])]
    return [*first, *helping, *reversed(hurting)]


def footnote(shown: Sequence[Row]) -> str:
    """What the sign before some effects means; empty where no row has it."""
    return f"{BESIDE} beside the other changes, not alone: do not multiply these" if any(
        row.effect.startswith(BESIDE) for row in shown) else ""


def _efforts(diagnosis: Diagnosis) -> dict[str, str]:
    return {arm: EFFORTS[finding.effort] for finding in diagnosis.findings for arm in finding.arms}


def counts(diagnosis: Diagnosis) -> Counts:
    """Everything else that was asked, in a line each."""
    arms = summary.arms(diagnosis)
    same = [arm.change for arm in arms if arm.verdict == "no difference"]
    within = f"within {diagnosis.seen.smallest_effect:.1%}".replace(".0%", "%")
    return Counts(
        _unsettled(diagnosis),
        f"no difference ({within}): {_some(same)}" if same else "",
        _impossible(diagnosis),
        _failed(diagnosis),
    )


def _some(names: list[str]) -> str:
    """``6, such as pin_memory=True``, or the only two by name."""
    return ", ".join(names) if len(names) <= 2 else f"{len(names)}, such as {names[0]}"


def _unsettled(diagnosis: Diagnosis) -> str:
    seen = diagnosis.seen
    if seen.withheld:
        return ""
    asked = _open(diagnosis)
    if not asked:
        return ""
    said = f"not known yet: {_some([arm.change for arm in asked])}"
    budget, within = budget_wanted(diagnosis), len(_settleable(diagnosis))
    if budget is None:
        return said
    which = "it" if len(asked) == 1 else "them" if within == len(asked) else f"{within} of them"
    return f"{said}; --budget {budget} should settle {which}"


def _open(diagnosis: Diagnosis) -> list[summary.Arm]:
    """Changes without an answer that are no part of a confirmed plan."""
    return [a for a in summary.arms(diagnosis) if a.verdict == "undecided" and not diagnosis.seen.in_plan(a.arm)]


def _settleable(diagnosis: Diagnosis) -> dict[str, int]:
    """Open changes that more blocks would settle, with their number; 0 where there is no block yet to tell it from."""
    more = {a.arm: diagnosis.seen.blocks_to_settle(a.arm) if a.effect is not None else 0 for a in _open(diagnosis)}
    return {arm: count for arm, count in more.items() if count is not None}


def budget_wanted(diagnosis: Diagnosis) -> int | None:
    """The budget in seconds that should settle what can be settled; None where no budget would, or nothing is open."""
    seen = diagnosis.seen
    if seen.withheld:
        return seen.budget_needed(max(0, stats.LOOKS[0] - len(seen.values(AA_ARM))), 1)
    more = _settleable(diagnosis)
    return seen.budget_needed(sum(more.values()), sum(count == 0 for count in more.values())) if more else None


def _impossible(diagnosis: Diagnosis) -> str:
    """What could not be tried here, the reasons grouped."""
    failed = diagnosis.capture.experiment.failed
    names = {diagnosis.seen.change(arm) for arm in failed}
    found = [(what, why) for what, why in summary.untestable(diagnosis) if what not in names]
    on_cpu = diagnosis.capture.loop is not None and diagnosis.capture.loop.device == "cpu"
    gpu = [what for what, why in found if on_cpu and GPU.search(why)]
    others = [(what, why) for what, why in found if what not in gpu]
    parts = [f"{_short(what)} ({_short(why)})" for what, why in others[:1]]
    if len(others) > 1:
        parts.append(f"{len(others) - 1} more")
    if gpu:
        parts.append(f"{len(gpu)} need a GPU" if len(gpu) > 1 else f"{_short(gpu[0])} (needs a GPU)")
    return f"could not be tried here: {', '.join(parts)}" if parts else ""


def _failed(diagnosis: Diagnosis) -> str:
    """Changes that broke the step, undone by perfdoc."""
    failed = diagnosis.capture.experiment.failed
    found = [(diagnosis.seen.change(arm), error) for arm, error in failed.items()
             if len(config_from_id(arm)) == 1 and not arm.startswith("loader ")]
    if not found:
        return ""
    change, error = found[0]
    more = f", and {counted(len(found) - 1, 'more change')}" if len(found) > 1 else ""
    return f"fails in this loop: {change} ({_short(str(error))}){more}"


LONGEST = 70
"""Maximum number of characters of a reason on the first screen: half a line of a wide terminal."""


def _short(text: str) -> str:
    """The text, or what stands before its first colon, or as much of that as there is room for."""
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else text.split(": ")[0]
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def beside(diagnosis: Diagnosis) -> list[Finding]:
    """Findings that no change that was tried stands for, the costliest first: lines of the script, the machine's state.

    Without those that only say that there is nothing to gain.
    """
    return [f for f in diagnosis.findings if f.verdict in ("helps", "hurts", "undecided") and not f.arms]
