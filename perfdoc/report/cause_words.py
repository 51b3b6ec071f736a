"""The lines that the time goes to, in words: for the answer, beside the phases, and as a table."""

from __future__ import annotations

from dataclasses import dataclass

from perfdoc.core.durations import seconds
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.diagnosis.line_causes import Cause, relative
from perfdoc.diagnosis.time_by_line import TimeByLine

TOLD = 0.1
"""Minimum share of the step for a line to stand in the answer."""
OUTSIDE = 0.3
"""Minimum share of the run outside of ordinary steps for that to be the answer."""
IN_TABLE = 0.01
"""Minimum share of the step for a line to stand in the table."""
MOST_TOLD = 3
"""Maximum number of lines that are told while the scan goes on."""
UNTELLING = frozenset({"Python", "Python operators", "an operator", "native code", "torch"})
"""What a line's time may be that is no name of anything: the line itself says more."""
LONGEST_CEILING = 100.0
"""Maximum ceiling that is given as a figure, because the rest of the step is not known better than to 1%."""


@dataclass(frozen=True)
class LineRow:
    """A line of the table, in words and figures."""

    where: str
    function: str
    text: str
    what: str
    phase: str
    kind: str
    in_worker: bool
    share: float
    low: float
    high: float
    seconds: float
    backward: float
    """Share of that which is the backward pass of what the line computes."""
    ceiling: float
    called_from: tuple[str, ...]


def rows(diagnosis: Diagnosis) -> list[LineRow]:
    """Places of the user's code by what they cost a step, the most first; empty where no stacks were sampled."""
    found, directory = diagnosis.seen.lines, diagnosis.capture.run.directory
    if found is None:
        return []
    return [
        LineRow(cause.where(directory), cause.function, cause.text, cause.what, cause.phase, cause.kind, cause.in_worker,
                cause.share.value, cause.share.low, cause.share.high, cause.seconds, cause.backward, cause.ceiling,
                tuple(f"{relative(line.file, directory)}:{line.line}" for line in cause.callers))
        for cause in found.causes if cause.share.value >= IN_TABLE
    ]


def first_cause(diagnosis: Diagnosis) -> Cause | None:
    """The place that stands in the answer: code of the user's own that could bring more than the plan does; or None."""
    found, plan = diagnosis.seen.lines, diagnosis.plan
    if found is None:
        return None
    best = next((cause for cause in found.causes if cause.kind == "code" and cause.share.value >= TOLD), None)
    effect = (plan.expected or plan.effect or plan.tried) if plan is not None else None
    if best is None or (effect is not None and effect.known and effect.speedup > best.ceiling):
        return None
    return best


def cause_sentences(cause: Cause, step: float, directory: str) -> tuple[str, str]:
    """What the step takes and which line has most of it; and what it would be without. ``step``: seconds."""
    time = step * cause.share.value
    source = f"  {cause.text}" if len(cause.lines) == 1 and cause.text else ""
    place = f"{cause.where(directory)}{source}" if not cause.function else f"{cause.function}, {cause.where(directory)}{source}"
    telling = cause.what not in UNTELLING and cause.what not in source
    inside = f", most of that in {cause.what}" if telling else ""
    whose = " of waiting for workers, which spend it" if cause.in_worker else ""
    first = f"{seconds(step)} a step, and {seconds(time)} of them{whose} in {place}{inside}."
    return first, f"If that cost nothing, a step would be {at_most(cause.ceiling)} faster."


def at_most(ceiling: float) -> str:
    """``at most 14x``."""
    if ceiling > LONGEST_CEILING:
        return "many times"
    return f"at most {ceiling:.{0 if ceiling >= 10 else 1 if ceiling >= 2 else 2}f}x"


def most_costly(found: TimeByLine, directory: str) -> list[str]:
    """The top three lines of a step, with what they could give: what is told while changes are still tried."""
    said = []
    for cause in [one for one in found.causes if one.share.value >= TOLD / 2][:MOST_TOLD]:
        name = cause.function or cause.text[:60]
        without = f"; without it {at_most(cause.ceiling)} faster" if cause.kind == "code" else ""
        said.append(f"{cause.share.value:4.0%}  {cause.where(directory)}  {name}, {cause.what}{without}")
    return said


def run_sentence(diagnosis: Diagnosis, step: float) -> str:
    """That most of the run is no step, and where it goes; empty where that is not so. ``step``: seconds."""
    found, directory = diagnosis.seen.lines, diagnosis.capture.run.directory
    if found is None or found.outside_steps < OUTSIDE or not found.between or not _seen_whole(found):
        return ""
    place = found.between[0]
    turn, epoch = found.turn_seconds, found.epoch_steps
    often = f", {seconds(turn)} an epoch of {epoch:.0f} steps" if turn is not None and epoch else ""
    return (f"{seconds(step)} a step, but steps are only {1 - found.outside_steps:.0%} of the run: {place.share:.0%} is "
            f"{place.what}{often} ({relative(place.line.file, directory)}:{place.line.line}).")


def _seen_whole(found: TimeByLine) -> bool:
    """Whether the turn of an epoch was seen, so that the share is of a whole one."""
    return found.turn_seconds is not None


def of_phase(diagnosis: Diagnosis, phase: str) -> str:
    """The place that has most of a phase: ``train.py:40-42 Readings.__getitem__ 88%``; empty where none stands out."""
    found, directory = diagnosis.seen.lines, diagnosis.capture.run.directory
    if found is None:
        return ""
    best = next((cause for cause in found.causes if cause.phase == phase), None)
    if phase == "backward":  # told at the lines that it goes through, where they are known
        made = sorted((c for c in found.causes if c.backward > 0), key=lambda c: -c.backward * c.share.value)
        return f"most of it for {made[0].where(directory)}" if made else ""
    if best is None or best.share.value < IN_TABLE or phase == "optimizer" or best.kind == "loader":
        return ""
    name = best.function or best.text[:40]
    beside = " with its backward" if best.backward > IN_TABLE else ""
    return f"{best.where(directory)}  {name}  {best.share.value:.0%}{beside}"


def run_words(diagnosis: Diagnosis) -> str:
    """``98% steps, 2% turn of the epoch``; empty where no whole epoch was seen."""
    found = diagnosis.seen.lines
    if found is None or not _seen_whole(found):
        return ""
    others = [f"{one.share:.0%} {one.what}" for one in found.between[:2] if one.share >= IN_TABLE]
    return ", ".join([f"{1 - found.outside_steps:.0%} steps", *others])
