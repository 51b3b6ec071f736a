"""What perfdoc says to a person: findings with their verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from perfdoc.core.measurement import How

Verdict = Literal["helps", "hurts", "no difference", "undecided", "untestable here", "withheld"]
Effort = Literal["one line", "a few lines", "a change of design"]

EFFORT_ORDER: dict[str, int] = {"one line": 0, "a few lines": 1, "a change of design": 2}


WIDEST = 4.0
"""Ratio of an interval's ends from which it says nothing where it holds 1: from half as fast to twice as fast, anything."""
ABSURD = 16.0
"""The same where it does not hold 1. ``20x [8, 45]`` tells a lot; what may be 1.2 or 5000 is known by its sign alone."""


def says_nothing(low: float, high: float) -> bool:
    """Whether the interval of a ratio is too wide to be shown as figures."""
    if not (math.isfinite(high) and low > 0):
        return True
    return high / low > (WIDEST if low <= 1 <= high else ABSURD)


def counted(number: int, what: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Effect:
    """A speed-up as a ratio (1.07 = 1.07x faster) with its 95% interval and how it was obtained."""

    speedup: float
    low: float
    high: float
    pairs: int
    how: How = "measured in your loop"

    @property
    def known(self) -> bool:
        """Whether the interval is narrow enough to say something."""
        return not says_nothing(self.low, self.high)

    @property
    def words(self) -> str:
        """``1.45x [1.38, 1.52]``, or ``not known yet (3 pairs)``."""
        if not self.known:
            return f"not known yet ({counted(self.pairs, 'block' if self.how == 'estimated from stacks' else 'pair')})"
        return f"{self.speedup:.2f}x [{self.low:.2f}, {self.high:.2f}]"

    def to_json(self) -> dict[str, Any]:
        """The effect as ``--json`` prints it: raw figures, and whether they say anything."""
        return {"speedup": self.speedup, "low": self.low, "high": self.high, "pairs": self.pairs, "how": self.how,
                "known": self.known}


@dataclass(frozen=True)
class Finding:
    """One piece of advice, or one measured "don't"."""

    code: str
    slug: str
    title: str
    """One sentence with the figures in it."""
    where: str
    """``file:line`` in the user's code, or an empty string where no place is known."""
    verdict: Verdict
    fix: str
    """The change to make (or not to make), as a person would write it."""
    evidence: tuple[str, ...] = ()
    effect: Effect | None = None
    effort: Effort = "one line"
    seconds_saved_a_step: float = 0.0
    """Lower end of the interval; the ranking goes by it."""
    arms: tuple[str, ...] = field(default=())
    """Arms of the experiment that the finding rests on."""
    blocks_to_settle: int | None = None
    """For ``undecided``: about how many more blocks would settle it."""
    numerics: str = ""
    """What the change does to loss and gradients (see ``perfdoc.core.numerics``); empty where it does nothing to them."""
    cause: str = ""
    """What is wrong, without what came of trying; empty where the title is all there is to say."""

    def to_json(self) -> dict[str, Any]:
        """The finding as ``--json`` prints it."""
        return {
            "code": self.code,
            "slug": self.slug,
            "title": self.title,
            "where": self.where,
            "verdict": self.verdict,
            "fix": self.fix,
            "evidence": list(self.evidence),
            "effect": self.effect.to_json() if self.effect else None,
            "effort": self.effort,
            "seconds_saved_a_step": self.seconds_saved_a_step,
            "arms": list(self.arms),
            "blocks_to_settle": self.blocks_to_settle,
            "numerics": self.numerics,
            "cause": self.cause,
        }
