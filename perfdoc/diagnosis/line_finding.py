"""Findings about a line of the user's own code, from the stacks that were sampled."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.line_causes import Cause, relative
from perfdoc.diagnosis.rule import Rule, worth_a_word


def about(rule: Rule, seen: Evidence, cause: Cause, fix: str) -> Finding | None:
    """A finding for a place of the user's code, where it is worth a word."""
    if not worth_a_word(cause.share.low * seen.step_seconds, seen):
        return None
    directory = seen.capture.run.directory
    name = cause.function or cause.text
    where = "in the workers, " if cause.in_worker else ""
    title = (f"{name} takes {cause.share.words} of the step ({where}{cause.what}); if it cost nothing, at most "
             f"{min(cause.ceiling, 100):.3g}x faster")
    callers = [f"{relative(line.file, directory)}:{line.line}" for line in cause.callers]
    evidence = [f"called from {' -> '.join(callers)}"] if callers else []
    if cause.text:
        evidence.append(f"hottest line: {cause.text}")
    return Finding(rule.code, rule.slug, title, cause.where(directory), "undecided", fix, tuple(evidence), effort=rule.effort,
                   seconds_saved_a_step=cause.share.low * seen.step_seconds)
