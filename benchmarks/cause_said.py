"""What a scan says of a case: which place stands first, with which share and ceiling, and what must not be said.

What is read of the JSON is in ``read``, and nowhere else. ``lines`` and the shares and ceilings of findings may be missing:
then they count as not said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cause_case import PLACE, Case, Place

HEAD_LINES = 10
"""Lines of the first screen, its title counted and empty ones not, in which the cause must be named to stand first: those that
are read before the table of changes."""
KNOBS = re.compile(
    r"\b(bf16|bfloat16|autocast|fused|foreach|channels_last|num_workers|(?<!each of )\d+ workers?|\w+ threads?"
    r"|prefetch_factor|pin_memory"
    r"|persistent_workers|torch\.compile|matmul precision|batch_size|larger batch|checkpoint\w*|cudnn)\b", re.IGNORECASE)
"""What perfdoc can switch: none of it belongs above the cause, except the cause's own remedy. "Each of 2 workers grows" speaks
of the script's own workers, and is no advice."""


@dataclass(frozen=True)
class Line:
    """What is said of one line of the user's code."""

    place: Place
    share: float | None = None
    """Of the step; of the run where the cause is the run's."""
    ceiling: float | None = None


@dataclass(frozen=True)
class Advice:
    """One finding."""

    code: str
    title: str
    place: Place | None
    share: float | None = None
    ceiling: float | None = None
    gain: float | None = None
    grows: float | None = None
    """MiB a step."""


@dataclass(frozen=True)
class Said:
    """What one scan said, in the order in which it is shown."""

    answer: tuple[str, ...]
    screen: str
    """The first screen of a terminal."""
    lines: tuple[Line, ...] = ()
    between: tuple[Line, ...] = ()
    """Where the time outside of steps goes; shares and ceilings are of the run."""
    findings: tuple[Advice, ...] = ()


def read(found: Mapping[str, Any], screen: str) -> Said:
    """From what ``perfdoc scan --json`` printed, and the text of the same run's first screen."""
    lines, between = (
        [Line(place, one.get("share"), one.get("ceiling"))
         for one in found.get(kind) or () if (place := Place.of(one.get("where", "")))]
        for kind in ("lines", "between_steps")
    )
    findings = [
        Advice(one["code"], one["title"], Place.of(one["where"]), one.get("share"), one.get("ceiling"),
               effect["speedup"] if (effect := one.get("effect")) and effect["known"] else None, _grows(one, found))
        for one in found["findings"]
    ]
    return Said(tuple(found["answer"]), screen, tuple(lines), tuple(between), tuple(findings))


def _grows(finding: Mapping[str, Any], found: Mapping[str, Any]) -> float | None:
    """MiB a step: said so, or worked out from MiB a second of each of so many workers."""
    words = " ".join([finding["title"], *finding["evidence"]])
    number = re.search(r"([\d.]+) (MiB|KiB) a step", words)
    if number:
        return float(number[1]) / (1024 if number[2] == "KiB" else 1)
    number, each = re.search(r"([\d.]+) MiB/s", words), re.search(r"each of (\d+) workers", words)
    step = found.get("step_seconds")
    return float(number[1]) * (int(each[1]) if each else 1) * step[0] if number and step else None


@dataclass
class Verdict:
    """How what was said compares with the cause."""

    first: bool
    """The cause stands first on the first screen, in its words and with its line."""
    stands_first: str
    """What does: the first place that the screen names, and the answer on top of it."""
    named: bool
    """A line of the culprit stands anywhere on the first screen."""
    rank: int | None
    """Of the first true finding, from 1."""
    share: float | None
    ceiling: float | None
    gain: float | None
    grows: float | None
    knobs_above: list[str] = field(default_factory=list)
    wrongly_said: list[str] = field(default_factory=list)


def judge(case: Case, said: Said) -> Verdict:
    """Compare what was said with what ``cause.json`` wants."""
    body = _below_title(said.screen)
    true = [(rank, one) for rank, one in enumerate(said.findings, 1) if is_true(case, one)]
    at = next((m.start() for m in PLACE.finditer(body) if _of(m).meets(case.culprit)), None)
    above = body if at is None else body[:at]
    answer = " ".join(said.answer)
    if case.of == "nothing":
        first = bool(re.search(case.first, said.answer[0])) and PLACE.search(answer) is None
        knobs: list[str] = []
    else:
        knobs = _knobs(above if at is not None else answer, case.allowed)
        other = PLACE.search(above)
        told = at is not None and bool(re.search(case.says, _to_paragraphs_end(body, at), re.IGNORECASE | re.DOTALL))
        first = told and other is None and not knobs and len(_filled(above)) <= HEAD_LINES
    wrong = [p for p in case.never if re.search(p, said.screen, re.IGNORECASE)]
    wrong += [p for p in case.not_first if re.search(p, above if at is not None else answer, re.IGNORECASE)]
    named = PLACE.search(body)
    lines = said.between if case.of == "run" else said.lines
    return Verdict(
        first, f"{named[0] if named else 'no line'}: {answer}", at is not None,
        true[0][0] if true else None, share(case, said, [one for _, one in true]),
        _largest([line.ceiling for line in lines if line.place.meets(case.shared)] + [one.ceiling for _, one in true]),
        _largest(one.gain for _, one in true), _largest(one.grows for _, one in true), knobs, wrong,
    )


def is_true(case: Case, finding: Advice) -> bool:
    """Whether a finding names the cause: one of its codes, at one of its lines or at none."""
    return finding.code in case.codes and (finding.place is None or finding.place.meets(case.culprit))


def share(case: Case, said: Said, true: Sequence[Advice]) -> float | None:
    """The share of the time that is said to be the cause's, where one can be compared with the true one."""
    if case.share == "lines" or case.of == "run":
        lines = said.between if case.of == "run" else said.lines
        shares = [line.share for line in lines if line.share is not None and line.place.meets(case.shared)]
        if shares:
            return sum(shares)
    return _largest(one.share for one in true) if case.share in ("lines", "finding") else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _of(found: re.Match[str]) -> Place:
    return Place(found[1], int(found[2]), int(found[3] or found[2]))


def _below_title(screen: str) -> str:
    """Without the title: the command in it may hold names of files and options."""
    return screen.partition("\n")[2]


def _to_paragraphs_end(text: str, at: int) -> str:
    """The text up to the empty line after ``at``."""
    end = re.compile(r"\n\s*\n").search(text, at)
    return text[: end.start()] if end else text


def _filled(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _knobs(text: str, allowed: str) -> list[str]:
    found = dict.fromkeys(match[0] for match in KNOBS.finditer(text))
    return [word for word in found if not (allowed and re.search(allowed, word, re.IGNORECASE))]
