"""What a report says, worked out once from a capture; terminal, HTML, JSON and Markdown are views of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perfdoc.core.finding import Finding
from perfdoc.core.metrics import PHASES
from perfdoc.diagnosis.diagnose import Diagnosis
from perfdoc.report import answer, cause_words, outcomes, sample_words, summary
from perfdoc.report.cause_words import LineRow
from perfdoc.report.figures import command_line
from perfdoc.report.outcomes import Counts, Row
from perfdoc.report.summary import Phase

NO_COUNTS = Counts("", "", "", "")


@dataclass(frozen=True)
class ReportModel:
    """Everything that the first screen shows; :attr:`diagnosis` has what longer reports show besides."""

    diagnosis: Diagnosis
    command: str
    """The user's command, as typed."""
    kind: str
    """``scan``, or ``watch`` where the whole run was only looked at."""
    run_id: str
    answer: tuple[str, ...]
    """Sentences, the most important one first."""
    phases: tuple[Phase, ...]
    """Where a step's time goes, in the order of a step."""
    sites: Mapping[str, str] = field(default_factory=dict)
    """By phase, the place of the script where its time is spent, as far as it is known."""
    lines: tuple[LineRow, ...] = ()
    """Places of the user's code by what they cost a step, the most first."""
    run: str = ""
    """What the run's time is, steps and the rest; empty where no whole epoch was seen."""
    rows: tuple[Row, ...] = ()
    """Changes that were tried: the plan's, what helps, what hurts."""
    counts: Counts = NO_COUNTS
    beside: tuple[Finding, ...] = ()
    """What was found without trying a change, the costliest first."""
    warnings: tuple[str, ...] = ()
    """What a person has to know before relying on the answer, or about their files."""


def build(diagnosis: Diagnosis) -> ReportModel:
    """The model of one scan's report."""
    capture = diagnosis.capture
    return ReportModel(
        diagnosis=diagnosis,
        command=_typed(capture.run.command),
        kind="watch" if capture.run.budget is None and not capture.blocks else "scan",
        run_id=capture.run.id,
        answer=answer.answer(diagnosis),
        phases=tuple(summary.anatomy(diagnosis)) if capture.loop else (),
        sites=_sites(diagnosis),
        lines=tuple(cause_words.rows(diagnosis)),
        run=cause_words.run_words(diagnosis),
        rows=tuple(outcomes.rows(diagnosis)) if capture.blocks else (),
        counts=outcomes.counts(diagnosis) if capture.loop and capture.blocks else NO_COUNTS,
        beside=tuple(outcomes.beside(diagnosis)) if capture.loop else (),
        warnings=tuple(summary.warnings(diagnosis)),
    )


def _typed(command: list[str]) -> str:
    """The command as it stands behind ``perfdoc scan``."""
    shown = command_line(command)
    return shown if shown.split(" ", 1)[0].endswith(".py") or not shown else f"-- {shown}"


def _short_path(site: str) -> str:
    """A place outside of the working directory (an installed library) by its last two names."""
    return site if not site.startswith("/") else "/".join([*site.split("/")[-2:]])


def _sites(diagnosis: Diagnosis) -> dict[str, str]:
    """By phase, the line that has most of it; without lines where the batches come from, and what most of a sample is."""
    loop = diagnosis.capture.loop
    found = {phase: place for phase in PHASES if (place := cause_words.of_phase(diagnosis, phase))}
    if "data" in found or loop is None or not loop.loaders:
        return found
    site = _short_path(loop.loaders[0].site)
    most = sample_words.most_of_a_sample(diagnosis)
    return {**found, "data": ", ".join(filter(None, (f"loader at {site}" if site else "", most)))}
