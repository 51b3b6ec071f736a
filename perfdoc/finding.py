"""What perfdoc says to a person: findings with their verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from perfdoc.measurement import How

Verdict = Literal["helps", "hurts", "no difference", "undecided", "untestable here", "withheld"]
Effort = Literal["one line", "a few lines", "a change of design"]

EFFORT_ORDER: dict[str, int] = {"one line": 0, "a few lines": 1, "a change of design": 2}


@dataclass(frozen=True)
class Effect:
    """A speed-up as a ratio (1.07 = 1.07x faster) with its 95% interval and how it was obtained."""

    speedup: float
    low: float
    high: float
    pairs: int
    how: How = "measured in your loop"

    def to_json(self) -> dict[str, Any]:
        """The effect as ``--json`` prints it."""
        return {"speedup": self.speedup, "low": self.low, "high": self.high, "pairs": self.pairs, "how": self.how}


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
    """What the change does to loss and gradients (see ``perfdoc.parity``); empty where it does nothing to them."""

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
        }
