"""What follows a launch of the user's command: another one, of which kind, or the end; and whose failure it was.

A failure is the script's own only where it is known: it came before perfdoc had changed anything, or it came again in a
launch that changes nothing. All else is perfdoc's doing, and is said so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

MOST_LAUNCHES = 60
"""Maximum number of launches in one scan: the budget ends it before, this is for scripts that end at once again and again."""
MOST_EMPTY = 3
"""Maximum number of launches in a row that end early without a single block."""
LEAST_LEFT = 2.0
"""Minimum of the budget, in seconds, that must be left for another launch: a round of blocks takes about that."""
CHECK_FACTOR = 1.5
CHECK_MORE = 10.0
"""A launch that changes nothing runs 1.5 times as long as the failing one trained, and 10 s: it needs no switches, so it gets
further in the same time; the rest allows for a machine that is slower now."""

UNDONE = ("interrupted", "hung", "never trained", "unwatched")
"""Why a launch was ended from outside, where another one would end the same way."""

Kind = Literal["experiment", "check"]


@dataclass(frozen=True)
class Failure:
    """How a process ended that ended with an error."""

    kind: str
    """Name of the exception, or how the process ended."""
    message: str
    site: str = ""
    """``file:line`` of the user's innermost frame; empty where there is none."""
    guarded: bool = False
    """Whether it is about files, and the script's files are kept apart: then it may be the guard's fault."""
    inside: str = ""
    """``file:line`` of perfdoc's own code, where it was raised there: then it may be perfdoc's fault."""

    def like(self, other: Failure | None) -> bool:
        """Whether it is the same failure: the same exception and words at the same line; figures in it may differ."""
        return other is not None and (self.kind, _words(self.message), self.site) == (
            other.kind, _words(other.message), other.site)

    def __str__(self) -> str:
        first = self.message.splitlines()[0] if self.message else ""
        return f"{self.kind}: {first}" if first else self.kind


def _words(message: str) -> str:
    return re.sub(r"[0-9]+(\.[0-9]+)?", "#", message)[:200]


@dataclass(frozen=True)
class Launch:
    """One launch of the user's command, after its end."""

    kind: Kind
    exit_code: int
    ended_by_scan: bool
    failure: Failure | None
    """None where the process ended with exit code 0."""
    changed: bool
    """Whether perfdoc had begun to change the loop: to hold it, or to switch."""
    active: str | None
    """Config id that was on at the end; None under the user's own settings."""
    before: str | None
    """Config id that was on just before that; None where it was the user's own settings."""
    overran: bool
    """Whether the loop was held beyond the natural length of its epoch."""
    just_overran: bool
    """Whether no block has come to its end since."""
    natural: bool
    """Whether epochs ended where they end without perfdoc."""
    blocks: int
    stepped: bool
    start_seconds: float
    """From the launch to the first optimizer step."""
    train_seconds: float
    """From the first optimizer step to the end."""
    why: str = ""
    """Why the parent ended it: ``interrupted``, ``hung``, ``stuck``, ``never trained``, ``unwatched``,
    ``did not end by itself``; or empty."""
    left_out: tuple[str, ...] = ()
    """Config ids that were left out because of how it ended."""


@dataclass(frozen=True)
class Next:
    """What to do after a launch."""

    do: Literal["stop", "start"]
    why: str = ""
    """For the person who watches."""
    kind: Kind = "experiment"
    excluded: tuple[str, ...] = ()
    """Config ids that are left out from now on."""
    natural: bool = False
    """Let epochs end from now on."""
    seconds: float = 0.0
    """Length of a launch of the kind ``check``, from its first optimizer step."""


STOP = Next("stop")


def following(launches: Sequence[Launch], left: float, ran: Collection[str] = ()) -> Next:
    """What to do next.

    ``left``: seconds of the budget. ``ran``: parts of arms that a whole block ran under: of a stack that failed, those are
    innocent as long as there are others.
    """
    last = launches[-1]
    if last.kind == "check":
        return _after_check(launches, left, ran)
    if last.ended_by_scan or last.why in UNDONE:
        return STOP
    if last.failure is None and last.why != "stuck":
        return _ended_early(launches, left)
    if not last.changed:
        return STOP
    again = last.failure is not None and _excluded_for(launches, last.failure)
    # A change that is on now, and never had a whole block, is the first suspect, unless the epoch's natural length has only
    # just been passed.
    proven = last.active is None or set(last.active.split("+")) <= set(ran)
    if last.overran and not last.natural and (proven or last.just_overran or again):
        return Next("start", "the script works with the length of its epoch: its epochs end from now on", natural=True)
    suspect = last.active or last.before
    known = _innocent(launches)
    # Without time to go on, what is left to find out is whose failure it was.
    unclear = suspect is None or left < LEAST_LEFT or again
    if last.failure is not None and not known and unclear:
        seconds = CHECK_FACTOR * last.train_seconds + CHECK_MORE
        return Next("start", "looking whether the script does that by itself", "check", seconds=seconds)
    return _without(launches, last, left, ran)


def _ended_early(launches: Sequence[Launch], left: float) -> Next:
    last = launches[-1]
    empty = [launch for launch in launches[-MOST_EMPTY:] if not launch.blocks]
    spent = left < LEAST_LEFT + last.start_seconds
    if not last.stepped or len(launches) >= MOST_LAUNCHES or len(empty) == MOST_EMPTY or spent:
        return STOP
    return Next("start", "the script ended before the questions were settled")


def _without(launches: Sequence[Launch], last: Launch, left: float, ran: Collection[str]) -> Next:
    """Go on without what was on, or had been on last; the end where there is nothing to leave out, or no time."""
    suspect = last.active or last.before
    if last.active and last.before and set(last.active.split("+")) <= set(ran):
        suspect = last.before  # what is on now has run well before: rather what the last change left behind
    if suspect is None or len(launches) >= MOST_LAUNCHES:
        return STOP
    out = tuple(part for part in suspect.split("+") if part not in ran) or (suspect,)
    if left < LEAST_LEFT:
        return Next("stop", excluded=out)
    how = "broke the script" if suspect == last.active else "was on before the script broke"
    return Next("start", f"{' and '.join(out)} {how}; going on without it", excluded=out)


def _after_check(launches: Sequence[Launch], left: float, ran: Collection[str]) -> Next:
    """After a launch that changed nothing: the failure was the script's own, or what was on is left out."""
    check, failed = launches[-1], launches[-2]
    if check.failure is not None or check.why in (*UNDONE, "stuck"):
        return STOP
    return _without(launches, failed, left, ran)


def _excluded_for(launches: Sequence[Launch], failure: Failure) -> bool:
    """Whether the same failure came before, and what was on then has been left out since."""
    return any(launch.failure is not None and failure.like(launch.failure) and launch.left_out for launch in launches[:-1])


def _innocent(launches: Sequence[Launch]) -> bool:
    """Whether a launch that changed nothing has run already without the failure."""
    return any(launch.kind == "check" and launch.failure is None for launch in launches)


def own_failure(launches: Sequence[Launch]) -> Failure | None:
    """The failure that is known to be the script's own; None where there was none, or it is not known."""
    last = launches[-1]
    if last.failure is None or last.why:
        return None
    if last.kind == "check" or not last.changed:
        return last.failure
    return None


def told(launch: Launch) -> str:
    """What perfdoc had on when its launch failed, for a sentence: ``while autocast=bf16 was on``."""
    if launch.active:
        return f"while {launch.active} was on"
    if launch.before:
        return f"after {launch.before} had been on"
    return "while perfdoc held the loop inside its epoch, with no change on"
