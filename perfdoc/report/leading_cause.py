"""Which cause stands first on the screen: a line, a finding about the user's code, or time outside of steps; and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from perfdoc.core.durations import seconds
from perfdoc.core.finding import Effect, Finding
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.diagnosis.line_causes import Cause
from perfdoc.diagnosis.rule import discover_rules
from perfdoc.report import cause_words
from perfdoc.report.figures import changed

LEAST_GAIN = 1.1
"""Minimum speed-up, or bound of one, for a finding about the user's code to be the answer."""
MEASURED_SHARE = 0.5
"""Minimum share of the plan's speed-up (of its log) that a measured cause must bring to stand above the plan."""
BOUND_SHARE = 1 / 3
"""Minimum share of a bound (of its log) that a measured cause must bring to be told before it: a bound only says "at most"."""
SAME_PLACE = 0.5
"""Minimum share of a line's ceiling (of its log) that a finding must bring to be told in its place."""


@dataclass(frozen=True)
class _Known:
    """A finding that names a cause, and what being rid of it brings."""

    finding: Finding
    gain: float
    measured: bool
    words: str
    """The finding in a sentence, with its line."""


def sentences(diagnosis: Diagnosis, step: float) -> tuple[str, ...]:
    """The cause in one or two sentences, the step's time in the first; empty where the plan or the trials are the answer.

    ``step``: seconds.
    """
    kinds = {rule.code: rule.names_cause for rule in discover_rules() if rule.names_cause}
    named = [finding for finding in diagnosis.findings if kinds.get(finding.code)]
    run = cause_words.run_sentence(diagnosis, step)
    if run:
        return (run, _of_the_run(diagnosis, [finding for finding in named if kinds[finding.code] == "run"]))
    pace = next((f for f in named if kinds[f.code] == "pace"), None)
    if pace is not None:
        return (f"{_placed(pace)}.", f"{pace.cause}.")
    memory = next((f for f in named if kinds[f.code] == "memory" and f.verdict == "hurts"), None)
    if memory is not None:
        return (f"{seconds(step)} a step, and {_placed(memory)}.",)
    known = _most(diagnosis, [finding for finding in named if kinds[finding.code] == "time"])
    line = cause_words.first_cause(diagnosis)
    if known is not None and _stands(diagnosis, known) and not (line is not None and _better(line, known)):
        return (f"{seconds(step)} a step. {_begun(known.words)}.",)
    return cause_words.cause_sentences(line, step, diagnosis.capture.run.directory) if line is not None else ()


def _of_the_run(diagnosis: Diagnosis, findings: list[Finding]) -> str:
    """What is known to shorten the time outside of steps; else the most that can be won there."""
    for finding in findings:
        if finding.verdict == "helps" and finding.effect is not None and finding.effect.known:
            return f"With {finding.fix} the run gets {changed(finding.effect)}."
        if finding.verdict == "undecided" and finding.effect is None:
            return f"{_begun(finding.title)}."  # seen, but too rarely for an interval
    found = diagnosis.seen.lines
    return f"Without that it would be {cause_words.at_most(found.between[0].ceiling)} faster." if found is not None else ""


def _begun(sentence: str) -> str:
    """A sentence with a capital letter, unless it begins with code: ``leaving out ...``, but ``torch.compile(...)``."""
    first = sentence.split(" ", 1)[0].rstrip(",:")
    return sentence[:1].upper() + sentence[1:] if first.isalpha() else sentence


def _placed(finding: Finding) -> str:
    """A finding's title, with its line where the title does not name it."""
    title = finding.title
    return title if not finding.where or finding.where in title else f"{title} ({finding.where})"


def _most(diagnosis: Diagnosis, findings: list[Finding]) -> _Known | None:
    """The finding that brings most: the best measured one, or one whose bound is far above it."""
    found = []
    for finding in findings:
        if finding.verdict == "helps" and finding.effect is not None and finding.effect.known:
            found.append(_Known(finding, finding.effect.speedup, True, _placed(finding)))
        elif finding.verdict == "undecided" and (estimate := _in_plan(diagnosis, finding)) is not None:
            found.append(estimate)
        elif finding.verdict == "undecided" and _is_clear(finding.effect):
            found.append(_Known(finding, finding.effect.speedup, True, _placed(finding)))
        elif finding.verdict == "undecided" and finding.seconds_saved_a_step > 0 and diagnosis.seen.step_seconds > 0:
            left = max(0.01, 1 - finding.seconds_saved_a_step / diagnosis.seen.step_seconds)
            found.append(_Known(finding, 1 / left, False, _placed(finding)))
    best = max(found, key=lambda one: math.log(max(1.0, one.gain)) * (1 if one.measured else BOUND_SHARE), default=None)
    return best if best is not None and best.gain >= LEAST_GAIN else None


def _is_clear(effect: Effect | None) -> TypeGuard[Effect]:
    """Whether even the lower end of an interval is a gain: too few pairs for a verdict, and none of them leaves a doubt."""
    return effect is not None and effect.known and effect.low >= LEAST_GAIN


def _in_plan(diagnosis: Diagnosis, finding: Finding) -> _Known | None:
    """A change of the plan that hardly had a block to itself: what it brings there, as the blocks of all stacks say."""
    plan = diagnosis.plan
    parts = plan.arm.split("+") if plan is not None else []
    for arm in finding.arms:
        estimate = diagnosis.seen.estimate(arm) if arm in parts else None
        if estimate is not None and estimate.low > 1:
            change = f"{finding.cause}. Without, it is" if finding.cause else f"{diagnosis.seen.change(arm)} makes it"
            where = f" ({finding.where})" if finding.where and finding.where not in change else ""
            words = f"{change} about {estimate.words} faster beside the rest of the plan{where}"
            return _Known(finding, estimate.speedup, True, words)
    return None


def _stands(diagnosis: Diagnosis, known: _Known) -> bool:
    """Whether it stands above the plan, which may hold the change that is rid of it."""
    plan = diagnosis.plan
    effect = (plan.expected or plan.effect or plan.tried) if plan is not None else None
    if effect is None or not effect.known or effect.speedup <= 1:
        return True
    least = MEASURED_SHARE if known.measured else 1.0
    return math.log(known.gain) >= least * math.log(effect.speedup)


def _better(line: Cause, known: _Known) -> bool:
    """Whether the line tells more: its ceiling is far above what the finding brings, or the finding is none about a line."""
    return math.log(known.gain) < SAME_PLACE * math.log(min(line.ceiling, cause_words.LONGEST_CEILING))
