"""What an experiment knows so far of every arm: its blocks and pairs, its verdict, whether it failed or changes the training.

Reading only, and keeping what comes in; which block comes next is :mod:`perfdoc.inject.experiment.experiment`'s.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from perfdoc.capture.records import Judged
from perfdoc.core import blocks as pairing
from perfdoc.core import numerics, stats
from perfdoc.core.blocks import AA_ARM, Block
from perfdoc.core.treatment import Config, config_id
from perfdoc.inject.experiment.design import Factor, contradictions, screening_arms
from perfdoc.inject.experiment.policy import DEFAULT, Policy
from perfdoc.inject.experiment.requests import BlockResult, ParityResult, Result

OUT_OF_MEMORY = "does not fit into memory"
"""Words in the reason of an arm that failed for want of memory: what takes more of it is not tried any more."""

class ArmResults:
    """Blocks so far, and what follows of each arm.

    ``smallest_effect``: a share (0.02). ``history``: blocks of earlier launches of the same scan, ``verdicts``: what they
    settled, ``excluded``: config ids that failed in one. ``allow_numerics``: whether what changes the training may be part of
    the plan.
    """

    def __init__(self, factors: Sequence[Factor], smallest_effect: float, history: Iterable[Block] = (),
                 excluded: Collection[str] = (), allow_numerics: bool = False, verdicts: Mapping[str, Judged] | None = None,
                 policy: Policy = DEFAULT) -> None:
        self.policy = policy
        self.factors = factors
        self.smallest_effect = smallest_effect
        self.blocks = list(history)
        self.excluded = [*excluded, *contradictions(factors)]
        self.allow_numerics = allow_numerics
        self.from_earlier = bool(self.blocks)
        """Whether it began with blocks of earlier launches."""
        self.verdicts: dict[str, Judged] = dict(verdicts or {})
        self.failed: dict[str, str] = {}
        self.numerics: dict[str, str] = {}
        """Verdicts of :func:`perfdoc.core.numerics.judge` by arm."""
        self.arms = screening_arms(factors, self.excluded, policy.most_cells)
        ceilings = {factor.slug for factor in factors if factor.ceiling}
        self.ceiling_ids = {config_id(arm) for arm in self.arms if ceilings & set(arm)}
        self.comparisons = max(1, len(self.arms) - len(self.ceiling_ids))
        """Arms for which verdicts are corrected."""
        self._paired: pairing.Pairs = {}
        self._paired_at = -1

    # -- what comes in

    def keep(self, result: Result) -> bool:
        """Add a block, where there is one."""
        if not isinstance(result, BlockResult) or result.block is None:
            return False
        self.blocks.append(result.block)
        return True

    def fail(self, arm: str, config: Config, reason: str) -> None:
        """``arm`` raised: it and everything that contains it is out."""
        parts = set(config_id(config).split("+"))
        self.failed[arm] = reason
        if OUT_OF_MEMORY in reason:
            for factor in self.factors:
                names = [level.name for level in factor.levels]
                if factor.enlarges and config.get(factor.slug) in names:
                    for name in names[names.index(config[factor.slug]) + 1:]:
                        self.failed.setdefault(config_id({factor.slug: name}), f"a smaller one {reason}")
        for other in self.arms:
            if parts <= set(config_id(other).split("+")):
                self.failed.setdefault(config_id(other), reason)

    def compared(self, result: Result) -> None:
        """Add what the comparison of numbers said."""
        if isinstance(result, ParityResult):
            self.numerics |= {record["arm"]: numerics.judge(record) for record in result.records}

    def settle(self, arms: Iterable[str]) -> None:
        """Give those a verdict that have enough pairs for one."""
        for arm in arms:
            pairs = len(self.values(arm))
            if arm in self.ceiling_ids:
                if pairs >= self.policy.ceiling_pairs:
                    self.verdicts[arm] = "measured"
            elif pairs in stats.LOOKS or pairs > stats.LOOKS[-1]:
                judged = stats.judge(
                    self.values(arm), self.smallest_effect, self.comparisons, self.noise, self.overlap(arm))
                if judged != "undecided":
                    self.verdicts[arm] = judged
                elif pairs >= stats.LOOKS[-1]:
                    self.verdicts[arm] = "undecided"

    # -- what they say of an arm

    def values(self, arm: str, confirm: bool = False) -> list[float]:
        """Paired log speed-ups of ``arm`` so far."""
        return pairing.arm_values(self._pairs(), arm, confirm)

    def overlap(self, arm: str, confirm: bool = False) -> stats.Overlap:
        """What these pairs have in common, as they share control blocks."""
        return pairing.overlap(self._pairs(), arm, confirm)

    def interval(self, arm: str, confirm: bool = False) -> stats.Interval:
        """The 95% interval of the log speed-up of ``arm``; raises ValueError below two pairs."""
        return stats.interval(self.values(arm, confirm), self.noise, overlap=self.overlap(arm, confirm))

    def _pairs(self) -> pairing.Pairs:
        if self._paired_at != len(self.blocks):
            self._paired, self._paired_at = pairing.log_speedups(self.blocks), len(self.blocks)
        return self._paired

    @property
    def noise(self) -> float | None:
        """Variance of the control's log ratio with itself; None before there are enough blocks."""
        return pairing.control_noise(self.blocks)

    def entered(self, arm: str) -> bool:
        """Whether it had a block."""
        return any(block.arm == arm for block in self.blocks)

    def is_open(self, arm: str) -> bool:
        """Whether it has neither a verdict nor failed."""
        return arm not in self.verdicts and arm not in self.failed

    def promising(self, arm: str) -> float:
        """Log speed-up so far; minus infinity where it has too few pairs, or failed."""
        values = self.values(arm)
        if len(values) < stats.LOOKS[0] or arm in self.failed:
            return -math.inf
        return stats.trimmed_mean(values)

    def needs_aa(self) -> bool:
        """Whether the A/A arm has too few pairs for anything to be believed."""
        return len(self.values(AA_ARM)) < stats.LOOKS[0]

    def aa_is_vague(self, half: float | None = None) -> bool:
        """Whether it is known to less than ``half`` (log units) on either side; None: as the policy says."""
        if self.needs_aa():
            return False
        shown = self.interval(AA_ARM)
        return max(abs(shown.low), abs(shown.high)) > (self.policy.vague if half is None else half)

    def is_vague(self, plan: Config) -> bool:
        """Whether what ``plan`` brings is not known well. Asked of its interval's width alone: its value decides nothing."""
        name = config_id(plan)
        if not plan or name in self.failed or not 2 <= len(self.values(name, confirm=True)) < self.policy.most_confirm_pairs:
            return False
        shown = self.interval(name, confirm=True)
        return (shown.high - shown.low) / 2 > self.policy.confirmed

    def vaguely_decided(self) -> dict[str, Config]:
        """The change alone that helps or hurts, was decided with the fewest pairs, and is not known well; none, or one.

        An arm is decided when its estimate happens to be far from no effect, which after four pairs is partly luck: what it
        says of the size of the effect is too large on average, until more pairs, at other times, are added.
        """
        large = {factor.slug for factor in self.factors if factor.enlarges}
        decided = [
            arm for arm in self.arms
            if len(arm) == 1 and self.verdicts.get(config_id(arm)) in ("helps", "hurts") and not large & set(arm)
            and config_id(arm) not in self.failed and len(self.values(config_id(arm))) < self.policy.most_decided_pairs
        ]
        for arm in sorted(decided, key=lambda arm: len(self.values(config_id(arm)))):
            shown = self.interval(config_id(arm))
            if (shown.high - shown.low) / 2 > self.policy.decided:
                return {config_id(arm): arm}
        return {}

    # -- what an arm is

    def changes_training(self, arm: Config) -> bool:
        """Whether a part of ``arm`` was seen to change the training; never, where the user allows that."""
        if self.allow_numerics:
            return False
        return any(self.numerics.get(config_id({slug: level})) == "changes training" for slug, level in arm.items())

    def plannable(self, arm: Config) -> bool:
        """Whether it may be the plan."""
        planned = {factor.slug for factor in self.factors if factor.planned}
        return set(arm) <= planned and not self.changes_training(arm)

    def enlarging(self) -> dict[str, Config]:
        """What takes more memory than the user's own settings and is still open."""
        large = {factor.slug for factor in self.factors if factor.enlarges and not factor.ceiling}
        named = {config_id(arm): arm for arm in self.arms if large & set(arm)}
        return {name: arm for name, arm in named.items() if self.is_open(name)}

    def trades(self, pairs: int) -> dict[str, Config]:
        """What is never part of a plan, does not enlarge the process, and has fewer than so many pairs."""
        never = {factor.slug for factor in self.factors if factor.trade_off}
        named = {config_id(arm): arm for arm in self.arms if never & set(arm) and not self.late_seconds(arm)}
        last = self.enlarging()
        return {
            name: arm for name, arm in named.items()
            if name not in last and name not in self.failed and len(self.values(name)) < pairs
        }

    def late_seconds(self, arm: Config) -> float:
        """About how long the first switch to ``arm`` takes, where that is long; 0 where it is not."""
        seconds = max((
            level.expected_seconds for factor in self.factors for level in factor.levels if arm.get(factor.slug) == level.name
        ), default=0.0)
        return seconds if seconds >= self.policy.late_seconds else 0.0

    def entry_seconds(self, arm: Config) -> float:
        """About how long the first block of ``arm`` takes to get going: as long as its slowest part took alone."""
        if self.entered(config_id(arm)):
            return 0.0
        cost = 0.0
        for slug, level in arm.items():
            alone = config_id({slug: level})
            first = next((block for block in self.blocks if block.arm == alone), None)
            if first is not None:
                cost = max(cost, first.switch + sum(first.warmup))
        return cost
