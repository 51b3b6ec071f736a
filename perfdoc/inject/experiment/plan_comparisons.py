"""A plan beside others that are like it: differences within the same rounds, where a difference of a few per cent decides."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence

from perfdoc.core import blocks as pairing
from perfdoc.core import stats
from perfdoc.core.blocks import SEARCH_PHASE
from perfdoc.core.treatment import Config, config_id
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.combination_model import CombinationModel
from perfdoc.inject.experiment.policy import Policy
from perfdoc.inject.experiment.requests import Request, Result, Steps
from perfdoc.inject.experiment.rounds import Rounds


class PlanComparisons:
    """Asks for blocks of a plan and of what is compared with it, until ``remaining()`` is down to a floor, in seconds."""

    def __init__(self, results: ArmResults, combinations: CombinationModel, rounds: Rounds, remaining: Callable[[], float],
                 policy: Policy) -> None:
        self._results = results
        self._combinations = combinations
        self._rounds = rounds
        self._remaining = remaining
        self._policy = policy

    def _beside(self, base: Config, stacks: Mapping[str, Config], gains: Mapping[str, list[float]], floor: float) -> Steps:
        """One round of ``base`` and these stacks; how much faster each was than ``base``, in logs, goes into ``gains``."""
        known, base_id = self._results, config_id(base)
        start = len(known.blocks)
        yield from self._rounds.round({base_id: base, **stacks}, SEARCH_PHASE, floor)
        # Blocks of this round with the control block before it, so that every arm finds its neighbours.
        now = pairing.log_speedups(known.blocks[max(0, start - 1):])
        here = {arm: pairs[-1].value for (arm, _), pairs in now.items()}
        for arm in stacks:
            if arm in here and base_id in here:
                gains[arm].append(here[arm] - here[base_id])

    def better_than(
        self, base: Config, stacks: Sequence[Config], floor: float
    ) -> Generator[Request, Result, Config | None]:
        """The stack that beats ``base`` clearly; None if none does."""
        known = self._results
        live = {config_id(arm): arm for arm in stacks}
        gains: dict[str, list[float]] = {arm: [] for arm in live}
        for _ in range(2 * self._policy.deciding_pairs):
            if not live or self._remaining() <= floor:
                break
            yield from self._beside(base, live, gains, floor)
            for arm in list(live):
                if arm in known.failed:
                    del live[arm]
                elif len(gains[arm]) >= self._policy.deciding_pairs:
                    shown = stats.interval(gains[arm], None, 0.05)
                    if shown.low > 0 or shown.high < math.log1p(known.smallest_effect):
                        del live[arm]
        won = {
            arm: stats.interval(got) for arm, got in gains.items() if len(got) >= stats.LOOKS[0] and arm not in known.failed
        }
        clear = [arm for arm, got in won.items() if got.low > 0 and got.center >= math.log1p(known.smallest_effect) / 2]
        if not clear:
            return None
        best = max(clear, key=lambda arm: won[arm].center)
        return next(arm for arm in stacks if config_id(arm) == best)

    def pruned(self, plan: Config, floor: float) -> Generator[Request, Result, Config]:
        """The plan without the parts whose removal is not seen to cost anything: those first that are expected to bring least.

        Every part is an edit that somebody must make, so it is for the part to show what it brings. Several are left out
        at once first, then one at a time. What two changes bring together the surrogate takes for the sum of both, more or
        less, until it has seen it.
        """
        known, policy = self._results, self._policy
        together = True
        while len(plan) > 1 and self._remaining() > floor:
            brings = self._combinations.beside(plan)
            weakest = sorted((slug for slug in brings if brings[slug] < policy.beyond_doubt), key=lambda slug: brings[slug])
            left_out = [weakest[:1], weakest[1:2]]
            if together:  # beside a change that makes a step many times faster, all others may be passengers
                sums = itertools.accumulate(max(brings[slug], 0.0) for slug in weakest[:len(plan) - 1])
                doubtful = weakest[:sum(brought < policy.beyond_doubt for brought in sums)]
                left_out = [doubtful, doubtful[:(len(doubtful) + 1) // 2]]
            less = [{slug: level for slug, level in plan.items() if slug not in out} for out in left_out if out]
            stacks = {config_id(config): config for config in less}
            gains: dict[str, list[float]] = {arm: [] for arm in stacks}
            for number in range(2 * policy.prune_pairs):
                clear = number >= policy.prune_pairs and all(self._is_clear(found) for found in gains.values())
                if not stacks or clear or self._remaining() <= floor:
                    break
                yield from self._beside(plan, stacks, gains, floor)
            enough = {arm: _not_below(found) for arm, found in gains.items()
                      if len(found) >= policy.prune_pairs and arm not in known.failed}
            as_good = [arm for arm in enough if enough[arm] >= self._earns()]
            if as_good:
                plan = stacks[min(as_good, key=lambda arm: (len(stacks[arm]), -enough[arm]))]
            elif together and enough:
                together = False
            else:
                break
        return plan

    def _earns(self) -> float:
        """Log speed-up of a plan without a part, below which the part earns its place: half of what is of interest is lost."""
        return -math.log1p(self._results.smallest_effect) / 2

    def _is_clear(self, gains: Sequence[float]) -> bool:
        """Whether more pairs would hardly say otherwise."""
        if len(gains) < 2:
            return False
        shown = stats.interval(gains, None, 0.2)
        return shown.low > self._earns() or shown.high < self._earns()


def _not_below(gains: Sequence[float]) -> float:
    """Where the mean of these may well lie at most: one standard error above it."""
    return statistics.fmean(gains) + statistics.stdev(gains) / math.sqrt(len(gains))
