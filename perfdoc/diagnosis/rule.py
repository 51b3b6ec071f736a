"""The contract of a rule, and how rules are found."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from perfdoc.core import numerics, stats
from perfdoc.core.finding import Effort, Finding, counted
from perfdoc.core.registry import discover
from perfdoc.core.treatment import config_from_id
from perfdoc.diagnosis.evidence import Evidence

SECTIONS = ("What it measures", "Why it costs time", "Example", "Use instead", "When this is wrong")
"""Sections that the docstring of every rule has, in this order; ``perfdoc explain`` and the docs show them."""

LEAST_SHARE = 0.02
"""Share of a step below which a rule that was not measured in the loop is silent: the default smallest effect of interest.
What could at best save less would count as no difference if it were tried, so nobody is to spend time on it."""


def worth_a_word(seconds: float, seen: Evidence) -> bool:
    """Whether so many seconds a step could be felt at all: more than the scan's smallest effect, or a fiftieth of the step.

    Not where the step's duration is not known, and never for zero or less.
    """
    return seconds > 0 and seen.step_seconds > 0 and seconds >= max(LEAST_SHARE, seen.asked_effect) * seen.step_seconds


IN_PLAN = "it is part of the plan, whose changes were measured together"


class Rule(ABC):
    """A pure function from evidence to a finding. The class docstring is the rule's documentation (see ``SECTIONS``)."""

    code: ClassVar[str]
    slug: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Metric ids without which the rule has nothing to say."""
    effort: ClassVar[Effort] = "one line"
    names_cause: ClassVar[Literal["", "time", "memory", "run", "pace"]] = ""
    """Whether it names what is wrong in the user's own code, and what that costs: such a finding may be the answer. ``run``:
    what the time outside of steps goes to, where that is most of the run. ``pace``: why the script's own steps take longer than
    those that are measured; its title tells how long, its cause what a step takes without."""

    @abstractmethod
    def check(self, seen: Evidence) -> Finding | None:
        """The finding for this capture, or None where the rule does not apply."""

    @classmethod
    def sections(cls) -> dict[str, str]:
        """The documentation by section; the empty key holds the summary line."""
        text = inspect.cleandoc(cls.__doc__ or "")
        parts = re.split(rf"^({'|'.join(SECTIONS)})\n-+\n", text, flags=re.MULTILINE)
        found = {"": parts[0].strip()}
        for title, body in zip(parts[1::2], parts[2::2], strict=True):
            found[title] = body.strip()
        return found

    def finding(self, seen: Evidence, arm: str, title: str, where: str, fix: str, evidence: Sequence[str]) -> Finding:
        """A finding about one arm of the experiment, its figures taken from the blocks."""
        verdict = seen.verdict(arm)
        if verdict == "undecided" and seen.in_plan(arm):
            evidence = [*evidence, IN_PLAN]
        if (said := estimated(seen, arm)) and said not in title:
            evidence = [*evidence, said]
        return Finding(
            self.code,
            self.slug,
            title,
            where,
            verdict,
            fix,
            tuple(evidence),
            seen.effect(arm),
            self.effort,
            seen.seconds_saved(arm),
            (arm,),
            seen.blocks_to_settle(arm) if verdict == "undecided" else None,
            seen.numerics(arm) if verdict == "helps" else "",
        )


class TreatmentRule(Rule):
    """A rule whose evidence is one treatment, switched in the loop: what came out is the finding, good or bad."""

    treatment: ClassVar[str]
    in_samples: ClassVar[bool] = False
    """Whether the step as a unit changes with the treatment, so that samples a second are what people compare."""

    def where(self, seen: Evidence) -> str:
        """``file:line`` the change belongs to, or an empty string where no one place is known."""
        offer = seen.offer(self.treatment)
        return offer.site if offer is not None else ""

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """What else was seen of this arm."""
        return []

    def cause(self, seen: Evidence) -> str:
        """What is wrong, whatever comes of trying; empty where the change says it."""
        return ""

    def title(self, seen: Evidence, arm: str) -> str:
        """One sentence about the arm with its figures."""
        effect = seen.effect(arm)
        if self.in_samples and effect is not None and effect.known and seen.verdict(arm) in ("helps", "hurts", "no difference"):
            return f"{seen.change(arm)} processes {effect.speedup:.2f}x as many samples a second"
        return describe(seen, arm)

    def check(self, seen: Evidence) -> Finding | None:
        """The best level of the treatment, with its verdict; also where it could not be tried here."""
        return self.check_of(seen, self.treatment)

    def check_of(self, seen: Evidence, treatment: str) -> Finding | None:
        """The same of one among several treatments that a rule speaks of."""
        offer = seen.offer(treatment)
        if offer is None or offer.status in ("not applicable", "already on"):
            return None
        if offer.status == "untestable here":
            return Finding(self.code, self.slug, f"{offer.title}: could not be tried here", self.where(seen),
                           "untestable here", offer.reason)
        arms = seen.arms_of(treatment)
        if not arms:
            return None
        best = best_arm(seen, arms)
        evidence = [*self.evidence(seen, best), *one_time_cost(seen, best)]
        record = seen.parity_record(best)
        if record is not None:
            evidence.append(f"numbers: {numerics.judge(record)} ({numerics.explain(record)})")
        evidence += [
            f"{seen.change(arm)}: {effect.words}"
            for arm in arms if arm != best and (effect := seen.effect(arm))
        ]
        if offer.reason:
            evidence.append(offer.reason)
        found = self.finding(seen, best, self.title(seen, best), self.where(seen), seen.change(best), evidence)
        return replace(found, cause=self.cause(seen))


WORTH_A_WORD = 20
"""One-time costs below this many steps are not spoken of."""
ORDER: Mapping[str, int] = {
    "helps": 0, "undecided": 1, "no difference": 2, "hurts": 3, "withheld": 4, "untestable here": 5
}


def best_arm(seen: Evidence, arms: Sequence[str]) -> str:
    """The arm to speak of: the best verdict, then the largest estimate."""

    def rank(arm: str) -> tuple[int, float]:
        found = seen.interval(arm)
        return ORDER[seen.verdict(arm)], -(found.center if found else -math.inf)

    return min(arms, key=rank)


def one_time_cost(seen: Evidence, arm: str) -> list[str]:
    """The cost of the first switch to ``arm`` and after how many steps it is repaid, where it is worth a word."""
    cost = seen.one_time_seconds(arm)
    if cost is None or cost < WORTH_A_WORD * seen.step_seconds:
        return []
    found = seen.interval(arm)
    saved = seen.step_seconds * (1 - stats.ratio_of(-found.center)) if found else 0.0
    if seen.verdict(arm) != "helps" or saved <= 0:
        return [f"the first switch took {cost:.2g} s"]
    return [f"the first switch took {cost:.2g} s, repaid after {math.ceil(cost / saved)} steps"]


def describe(seen: Evidence, arm: str) -> str:
    """One sentence: what the arm did to the step."""
    change, effect, verdict = seen.change(arm), seen.effect(arm), seen.verdict(arm)
    failed = seen.capture.experiment.failed.get(arm)
    if failed:
        return f"{change}: fails in this loop ({failed})"
    if effect is None:
        return f"{change}: {estimated(seen, arm) or 'the budget did not reach it'}"
    if not effect.known:
        sign = {"helps": " makes the step faster, by how much is", "hurts": " makes the step slower: do not. By how much is"}
        return f"{change}{sign.get(verdict, ':')} {effect.words}"
    if verdict == "helps":
        return f"{change} makes the step {effect.speedup:.2f}x faster"
    if verdict == "hurts":
        return f"{change} makes the step {1 / effect.speedup:.2f}x slower: do not"
    if verdict == "no difference":
        return f"{change} makes no difference to the step (less than {seen.smallest_effect:.0%} either way)"
    return f"{change}: {effect.speedup:.2f}x, not settled"


def estimated(seen: Evidence, arm: str) -> str:
    """What the stacks that had the arm tell about it, in words; empty where they tell nothing more than its own blocks."""
    found = seen.estimate(arm)
    if found is None:
        return ""
    beside = "beside the plan" if seen.capture.experiment.plan else "on its own"
    if config_from_id(arm).items() <= seen.capture.experiment.plan.items():
        beside = "in the plan"
    return (f"{beside} {found.words}, estimated from {counted(found.pairs, 'block')} that had it, most of them with other "
            "changes")


def discover_rules() -> list[Rule]:
    """One instance of every rule in ``perfdoc.rules``, ordered by code."""
    return discover(Rule, ["perfdoc.rules"], "code")  # type: ignore[type-abstract]
