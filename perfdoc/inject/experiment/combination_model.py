"""What all blocks so far say together about stacks of changes: a regression, and what is read from it."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter

from perfdoc.capture.records import Estimate
from perfdoc.core.blocks import CONFIRM_PHASE
from perfdoc.core.treatment import Config, config_from_id, config_id
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.surrogate import Surrogate


class CombinationModel:
    """Reads the results; what takes long to switch to is no part of it."""

    def __init__(self, results: ArmResults) -> None:
        self._results = results

    def any_quick(self) -> bool:
        """Whether there is anything to stack."""
        return any(self._quick(arm) for arm in self._results.arms)

    def seen(self) -> list[tuple[Config, list[float]]]:
        """What may be planned, with its pairs so far."""
        arms = {block.arm: config_from_id(block.arm) for block in self._results.blocks if "=" in block.arm}
        found = [(arm, self._results.values(name)) for name, arm in arms.items() if self._results.plannable(arm)]
        return [(arm, values) for arm, values in found if values]

    def surrogate(self) -> Surrogate:
        """The regression over all blocks so far."""
        results = self._results
        quick = [
            factor for factor in results.factors if factor.planned
            and max(level.expected_seconds for level in factor.levels) < self._results.policy.late_seconds
        ]
        noise = max(results.noise or self._results.policy.unknown_noise, self._results.policy.least_noise)
        banned = [*results.excluded, *results.failed]
        if not results.allow_numerics:
            banned += [arm for arm, said in results.numerics.items() if said == "changes training"]
        seen = [(arm, values) for arm, values in self.seen() if not results.late_seconds(arm)]
        return Surrogate(quick, seen, noise, math.log1p(results.smallest_effect), banned)

    def by_promise(self, arms: dict[str, Config]) -> dict[str, Config]:
        """The arms with the highest hopes first: what the surrogate expects, and one standard deviation more."""
        if not self.seen():
            return arms
        model, results = self.surrogate(), self._results
        hopes = {
            name: math.inf if name in results.ceiling_ids else model.hope(arm) if results.plannable(arm) else -math.inf
            for name, arm in arms.items()
        }
        return dict(sorted(arms.items(), key=lambda entry: -hopes[entry[0]]))

    def best(self, rng: random.Random) -> Config:
        """The best stack as far as known, of the changes that are likely to help it; empty where it is not faster for sure."""
        if not self.seen():
            return {}
        model = self.surrogate()
        plan = dict(model.best(model.mean))
        draws = [model.draw(rng) for _ in range(self._results.policy.member_draws)]

        def sure(config: Config, without: Config) -> float:
            return statistics.fmean(
                model.speedup(config, weights) > model.speedup(without, weights) for weights in draws
            )

        while plan:
            less = {slug: {s: level for s, level in plan.items() if s != slug} for slug in plan}
            weakest = min(plan, key=lambda slug: sure(plan, less[slug]))
            if sure(plan, less[weakest]) >= self._results.policy.member:
                break
            plan = less[weakest]
        return plan

    def beside(self, plan: Config) -> dict[str, float]:
        """Log speed-up that every change of the plan is expected to bring beside the others; without those that take long."""
        model = self.surrogate()
        return {slug: model.beside(plan, slug, level)[0] for slug, level in plan.items()
                if not self._results.late_seconds({slug: level})}

    def estimates(self, plan: Config) -> dict[str, Estimate]:
        """What every change that was part of a stack does beside the rest of the plan.

        Left out where the blocks say less than what was assumed before them.
        By config id: ``center`` and ``deviation`` of the log speed-up, and ``blocks`` that it had a part in, alone or not.
        """
        results = self._results
        if not self.any_quick() or not self.seen():
            return {}
        tried = [block.arm for block in results.blocks if block.phase != CONFIRM_PHASE and block.count]
        had = Counter(part for arm in tried for part in arm.split("+"))
        model, found = self.surrogate(), {}
        plan = {slug: level for slug, level in plan.items() if not results.late_seconds({slug: level})}
        for arm in results.arms:
            name = config_id(arm)
            if had[name] and name not in results.failed and self._quick(arm):
                ((slug, level),) = arm.items()
                center, deviation, before = model.beside(plan, slug, level)
                if deviation <= self._results.policy.told * before:
                    found[name] = Estimate(round(center, 5), round(deviation, 5), had[name])
        return found

    def _quick(self, arm: Config) -> bool:
        return self._results.plannable(arm) and not self._results.late_seconds(arm)
