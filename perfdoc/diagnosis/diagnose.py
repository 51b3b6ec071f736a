"""From a capture to findings, ranked, and the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perfdoc.capture.document import Capture
from perfdoc.core import stats
from perfdoc.core.finding import EFFORT_ORDER, Effect, Finding
from perfdoc.core.treatment import config_id
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import ORDER, discover_rules


@dataclass(frozen=True)
class Plan:
    """The stack of changes that was fastest, with the effect measured after it was chosen."""

    arm: str
    changes: tuple[str, ...]
    effect: Effect | None
    """From the confirm phase alone; None where the budget did not reach it."""
    note: str = ""
    epoch: Effect | None = None
    """The effect on a whole epoch where workers must be filled anew at its turn; None where that costs nothing."""
    epoch_steps: int = 0
    tried: Effect | None = None
    """Without confirmation: the effect of a single change when it was tried, where that was settled as a help."""
    numerics: str = ""
    """What it does to loss and gradients, the worst of its parts; empty where no part touches them."""
    expected: Effect | None = None
    """What the changed script should come to; None where the plan was not confirmed."""


@dataclass(frozen=True)
class Diagnosis:
    """Everything a report shows besides the capture itself."""

    capture: Capture
    seen: Evidence
    findings: tuple[Finding, ...]
    plan: Plan | None

    def with_verdict(self, *verdicts: str) -> list[Finding]:
        """Findings with one of these verdicts, in their order."""
        return [finding for finding in self.findings if finding.verdict in verdicts]


def diagnose(capture: Capture) -> Diagnosis:
    """Run all rules on a capture and rank what they find by seconds saved, then by effort."""
    seen = Evidence(capture)
    found = [finding for rule in discover_rules() if (finding := rule.check(seen)) is not None]
    found.sort(
        key=lambda finding: (ORDER[finding.verdict], -finding.seconds_saved_a_step, EFFORT_ORDER[finding.effort])
    )
    return Diagnosis(capture, seen, tuple(found), _plan(seen))


def _plan(seen: Evidence) -> Plan | None:
    config = seen.capture.experiment.plan
    if not config or seen.withheld:
        return None
    arm = config_id(config)
    changes = tuple(seen.change(config_id({slug: level})) for slug, level in sorted(config.items()))
    effect = seen.effect(arm, confirm=True)
    if effect is None:
        # A stack was chosen by how it did: what the search measured of it is no estimate.
        tried = seen.effect(arm) if len(config) == 1 and seen.verdict(arm) == "helps" else None
        why = f"the budget did not reach its confirmation. {seen.budget_for(stats.LOOKS[0], 0) or 'Raise --budget.'}"
        return Plan(arm, changes, None, why, tried=tried, numerics=seen.numerics(arm) if tried else "")
    if effect.low <= 1.0:
        return Plan(arm, changes, effect, "the confirmation could not settle it: raise --budget before relying on it")
    if not seen.beyond_control(effect):
        return Plan(arm, changes, effect, f"the control against itself is only known to ±{seen.resolution:.1%}: "
                    "raise --budget before relying on it")
    epoch, steps = _epoch(seen, config, effect)
    expected = seen.expected(arm, epoch or effect)
    return Plan(arm, changes, effect, "", epoch, steps, numerics=seen.numerics(arm), expected=expected)


def _epoch(seen: Evidence, config: Mapping[str, str], effect: Effect) -> tuple[Effect | None, int]:
    """The plan's effect on an epoch: its steps and one turn, with workers that stay (persistent_workers=True).

    The turn was timed in isolation; without workers there is nothing to fill and the turn is taken to cost nothing.
    """
    turn, batches = seen.measurement("loader.turnover", kind="persistent"), seen.measurement("loader.batches_an_epoch")
    loop = seen.capture.loop
    planned = seen.level_of("loading", config_id(config))
    if turn is None or batches is None or loop is None or planned is None or str(turn.conditions["workers"]) != planned:
        return None, 0
    steps = max(1, round(batches.median / max(1, loop.loaders[0].batches_a_step)))
    if loop.loaders[0].num_workers:
        return None, 0  # the user's own epochs have such a turn too, which was not timed with their count
    before = seen.step_seconds * steps

    def whole(speedup: float) -> float:
        return float(before / (before / speedup + turn.mean))

    if whole(effect.speedup) > effect.speedup * (1 - seen.asked_effect):
        return None, 0
    return Effect(whole(effect.speedup), whole(effect.low), whole(effect.high), effect.pairs), steps
