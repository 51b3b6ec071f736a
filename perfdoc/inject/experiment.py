"""The experiment: which block comes next, when a question is settled, and which stack of changes is fastest.

Written as a generator that asks for blocks and is sent their results, so that the same code runs in a user's loop and
in simulations with known truth (``benchmarks/false_alarms.py``). No torch, no clock: time comes from ``remaining``.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfdoc import blocks as pairing
from perfdoc import parity, stats
from perfdoc.blocks import AA_ARM, CONFIRM_PHASE, CONTROL_ARM, SEARCH_PHASE
from perfdoc.inject.design import Factor, screening_arms, without
from perfdoc.inject.requests import (
    BlockRequest,
    BlockResult,
    ParityRequest,
    ParityResult,
    ProbeRequest,
    Request,
    Result,
    Steps,
)
from perfdoc.inject.surrogate import Surrogate
from perfdoc.treatment import CONTROL, Config, config_from_id, config_id

SCREEN_SHARE = 0.35
"""Share of the budget after which screening makes way for the search for the best stack."""
SEARCH_SHARE = 0.83
"""Share of the budget, without what is kept for the end, after which the search makes way for confirming the plan."""
PROBES_SHARE = 0.08
"""Share of the budget for the probes that run once, for the plan."""
TRADES_SHARE = 0.1
"""Share of the budget for what trades something else for time, where screening did not reach it."""
ENLARGING_SHARE = 0.1
"""Share of the budget for what enlarges the process, at the very end."""
TRADE_PAIRS = 2
"""Pairs of each of these: the fewest that have an interval."""
FIRST_ROUND_SHARE = 0.5
"""Share of the screening time that its first round may take: where arms are slow, the less promising wait for the end."""
ROUNDS_AHEAD = 3
"""Further rounds that every arm kept in screening should be able to get; the less promising make way for the others."""
SURE_PAIRS = 8
"""Pairs at which screening leaves an open arm: the search and the rest of the budget go on with it."""
DRAWN = 2
"""Stacks drawn in every round of the search, beside the best so far."""
MEMBER = 0.8
"""Probability of helping from which a change stays in the plan."""
CEILING_PAIRS = 6
"""Pairs after which a ceiling is known well enough: it explains, it is not advised."""
CONFIRM_PAIRS = 8
"""Pairs of the confirm phase before anything else: the plan's effect is estimated from these and later ones alone."""
CONFIRMED = 0.03
"""Half-width of the plan's interval, in log units, below which more of its blocks would tell nobody more."""
MOST_CONFIRM_PAIRS = 32
"""Pairs of it at most; where they do not get there, the effect itself comes and goes with the state of the machine."""
ARMS_AN_AA = 5
"""Arms of a round for which there is one A/A block."""
VAGUE = 0.1
"""Half-width of the A/A arm's interval, in log units, above which every round has one more block of it."""
HOPELESS = 0.2
"""Half-width of it above which even the confirmation of the plan makes room for more of it."""
ARMS_A_CONTROL = 2
"""Arms between two control blocks: one control serves two arms on either side, which is a quarter of the time saved."""
PARITY_SHARE = 0.12
"""Share of the budget for comparing numbers."""
MOST_COMPARED = 6
"""Treatments whose numbers are compared at a time."""
LATE_SECONDS = 5.0
"""Expected duration of a first switch from which an arm waits until the others are known."""
LATE_RESERVE = 1.5
"""Times its expected duration that must be left for such a switch: rules of thumb about compilation are often short."""
ENTRY_SHARE = 0.5
"""A stack whose first block would take longer than this share of the time left to get going (compilation) is not tried."""
DECIDING_PAIRS = 5
"""Pairs after which what takes long to switch to is compared with the plan that does without it."""
UNKNOWN_NOISE = 0.1**2
LEAST_NOISE = 0.01**2
"""Variance of a pair taken for the surrogate before enough control blocks have run, and the least one."""
SCARCE_BLOCKS = 30
"""Blocks in the budget below which a search would answer nothing: a few changes, named beforehand, are decided instead,
where it is the steps that are slow."""
SLOW_BLOCK = 1.0
"""Seconds a block from which steps are called slow."""
TOLD = math.sqrt(0.5)
"""An estimate is told where the blocks took half of the variance that was there before them: else it repeats an assumption."""
DRAWS = 50
"""Draws from the surrogate for a probability."""


@dataclass
class Experiment:
    """State of one scan's experiment.

    ``budget`` seconds in all; ``remaining()`` seconds left. ``smallest_effect``: a share (0.02). ``history``: blocks of
    earlier laps of the same scan. ``excluded``: config ids that failed in an earlier lap.
    """

    factors: Sequence[Factor]
    budget: float
    remaining: Callable[[], float]
    smallest_effect: float = 0.02
    seed: int = 0
    history: Iterable[Mapping[str, Any]] = ()
    excluded: Collection[str] = ()
    blocks: list[Mapping[str, Any]] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    plan: Config = field(default_factory=dict)
    phase: str = "screen"
    allow_numerics: bool = False
    """Whether what changes the training may be part of the plan."""
    numerics: dict[str, str] = field(default_factory=dict)
    """Verdicts of :func:`perfdoc.parity.judge` by arm."""

    def __post_init__(self) -> None:
        self.blocks.extend(self.history)
        self._random = random.Random(self.seed)
        self._last_was_control = False
        self._paired: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._paired_at = -1
        ceilings = {factor.slug for factor in self.factors if factor.ceiling}
        self._arms = screening_arms(self.factors, self.excluded)
        self._ceiling_ids = {config_id(arm) for arm in self._arms if ceilings & set(arm)}
        self._named = {config_id(arm) for arm in self._arms}
        self._comparisons = max(1, len(self._arms) - len(self._ceiling_ids))

    # -- reading the blocks so far

    def values(self, arm: str, confirm: bool = False) -> list[float]:
        """Paired log speed-ups of ``arm`` so far."""
        if self._paired_at != len(self.blocks):
            self._paired, self._paired_at = pairing.log_speedups(self.blocks), len(self.blocks)
        return pairing.arm_values(self._paired, arm, confirm)

    def _judge(self, arm: str) -> stats.Judgement:
        noise = pairing.control_noise(self.blocks)
        return stats.judge(self.values(arm), self.smallest_effect, self._comparisons, noise)

    def _settle(self, arms: Iterable[str]) -> None:
        for arm in arms:
            pairs = len(self.values(arm))
            if arm in self._ceiling_ids:
                if pairs >= CEILING_PAIRS:
                    self.verdicts[arm] = "measured"
            elif pairs in stats.LOOKS or pairs > stats.LOOKS[-1]:
                judged = self._judge(arm)
                if judged != "undecided":
                    self.verdicts[arm] = judged
                elif pairs >= stats.LOOKS[-1]:
                    self.verdicts[arm] = "undecided"

    # -- asking for blocks

    def _control(self, phase: str) -> Generator[Request, Result, bool]:
        result = yield BlockRequest(CONTROL, CONTROL_ARM, phase)
        self._last_was_control = True
        return self._keep(result)

    def _keep(self, result: Result) -> bool:
        if not isinstance(result, BlockResult) or result.block is None:
            return False
        self.blocks.append(result.block)
        return True

    def _round(self, arms: Mapping[str, Config], phase: str, floor: float) -> Steps:
        """One block of every arm in random order, with control blocks before, after, and after every second arm.

        Ends early, but never without the closing control block, when less than ``floor`` seconds are left.
        """
        self.phase = phase
        order = list(arms)
        if AA_ARM in arms:
            # How far A/A is known bounds every verdict: in rounds of many arms it has several places.
            order += [AA_ARM] * (len(order) // ARMS_AN_AA - 1 + self._aa_is_vague())
        self._random.shuffle(order)
        # However little time there is: what every verdict rests on, and what explains the step, has a block of its own.
        needed = {arm for arm in order if (arm == AA_ARM or arm in self._ceiling_ids) and not self._entered(arm)}
        order.sort(key=lambda arm: arm not in needed)
        for place, arm in enumerate(order):
            if self.remaining() <= (0.0 if arm in needed else floor):
                break
            if arm in self.failed or not without([arms[arm]], [*self.failed, *self.excluded]):
                continue
            if place % ARMS_A_CONTROL == 0 and not self._last_was_control:
                yield from self._control(phase)
            result = yield BlockRequest(arms[arm], arm, phase)
            self._last_was_control = False
            if isinstance(result, BlockResult) and result.failed:
                self._fail(arm, arms[arm], result.failed)
            else:
                self._keep(result)
        if not self._last_was_control:
            yield from self._control(phase)

    def _needs_aa(self) -> bool:
        """Whether the A/A arm has too few pairs for anything to be believed."""
        return len(self.values(AA_ARM)) < stats.LOOKS[0]

    def _aa_is_vague(self, half: float = VAGUE) -> bool:
        values = self.values(AA_ARM)
        if len(values) < stats.LOOKS[0]:
            return False
        shown = stats.interval(values, pairing.control_noise(self.blocks))
        return max(abs(shown.low), abs(shown.high)) > half

    def _fail(self, arm: str, config: Config, reason: str) -> None:
        parts = set(config_id(config).split("+"))
        self.failed[arm] = reason
        for other in self._arms:
            if parts <= set(config_id(other).split("+")):
                self.failed.setdefault(config_id(other), reason)

    # -- the phases

    def run(self) -> Steps:
        """The whole experiment, from the first control block to the confirmed plan."""
        yield from self._control("screen")
        if self._steps_are_slow():
            yield from self._decide_few()
            return
        yield from self._screen()
        yield from self._screen_late()
        if self.verdicts.get(AA_ARM) in ("helps", "hurts"):
            return
        yield from self._search(self._search_floor())
        yield from self._add_late()
        yield from self._compare_numbers([self.plan])
        if self._changes_training(self.plan):
            yield from self._search(max(self.remaining() / 2, self.remaining() - SCREEN_SHARE / 2 * self.budget))
            yield from self._add_late()
            yield from self._compare_numbers([self.plan])
            self.plan = {s: level for s, level in self.plan.items() if not self._changes_training({s: level})}
        # What a plan must have to be told comes before everything else.
        yield from self._confirm(stats.LOOKS[0])
        yield from self._confirm(CONFIRM_PAIRS, self._kept_for_the_end())
        yield from self._compare_numbers([arm for arm in self._arms if self.verdicts.get(config_id(arm)) == "helps"])
        if self._changes_training(self.plan):
            self.plan = {}  # a part that there was no time to compare before
        yield from self._settle_rest(self._kept_for_the_end())
        # From here on the process is no more as the user's script made it: see Factor.enlarges.
        yield ProbeRequest(False, dict(self.plan))
        yield from self._try_trades()
        yield from self._settle_rest(ENLARGING_SHARE * self.budget if self._enlarging() else 0.0, with_plan=False)
        yield from self._try_enlarging()
        yield from self._settle_rest(0.0, with_plan=False)

    def _search_floor(self) -> float:
        """Seconds of the budget that must be left when the search ends."""
        return (1 - SEARCH_SHARE) * self.budget + self._kept_for_the_end()

    def _kept_for_the_end(self) -> float:
        """Seconds of the budget for what is measured when the plan is known."""
        shares = PROBES_SHARE, TRADES_SHARE * bool(self._trades()), ENLARGING_SHARE * bool(self._enlarging())
        return math.fsum(shares) * self.budget

    def _seconds_an_arm(self) -> float:
        """About how long one more block of an arm takes, its share of the control blocks included; 0 before the first."""
        # A later block of the same arm has one or two steps of warm-up instead of the first one's many.
        seconds = [b["seconds"] * (1 + 1.5 / b["count"]) for b in self.blocks]
        return (1 + 1 / ARMS_A_CONTROL) * statistics.fmean(seconds) if seconds else 0.0

    def _arms_left(self) -> float:
        """About how many blocks of arms, with their control blocks, fit into the time that is left."""
        each = self._seconds_an_arm()
        return self.remaining() / each if each else math.inf

    def _steps_are_slow(self) -> bool:
        controls = 1 + 1 / ARMS_A_CONTROL
        return self._seconds_an_arm() > SLOW_BLOCK * controls and self._arms_left() * controls < SCARCE_BLOCKS

    def _decide_few(self) -> Steps:
        """Where steps are slow: as many changes as can be decided, one of each treatment, those that act on most of the step.

        They are chosen before any of them was tried, so only they count as comparisons, and they are measured in turns with
        the A/A arm until they are settled. What helps most is the plan, and what time is left confirms it.
        """
        arms: dict[str, Config] = {}
        for factor in self._by_share():
            alone = [arm for arm in self._arms if set(arm) == {factor.slug} and self._plannable(arm)]
            own = [arm for arm in alone if not self._late_seconds(arm)]
            if own:
                arms[config_id(own[-1])] = own[-1]
        # Four pairs of A/A, four of every change, and four to confirm what helps.
        arms = dict(list(arms.items())[: max(1, int(self._arms_left() / stats.LOOKS[0]) - 2)])
        self._comparisons = max(1, len(arms))
        while self.remaining() > 0:
            live = {name: arm for name, arm in arms.items() if name not in self.verdicts and name not in self.failed}
            if not live and not self._needs_aa():
                break
            if all(len(self.values(name)) >= stats.LOOKS[0] for name in live):
                # What did best goes on, with no more beside it than can still be settled.
                able = max(1, int(self._arms_left() / stats.LOOKS[0]) - 1)
                live = {name: live[name] for name in sorted(live, key=self._promising, reverse=True)[:able]}
            before = len(self.blocks)
            if self._needs_aa() or self._aa_is_vague():
                live[AA_ARM] = CONTROL
            yield from self._round(live, "screen", 0.0)
            self._settle(live)
            if len(self.blocks) == before:
                break
        helping = [name for name in arms if self.verdicts.get(name) == "helps"]
        if helping and not self._needs_aa():
            self.plan = arms[max(helping, key=lambda name: stats.trimmed_mean(self.values(name)))]
            yield from self._confirm(CONFIRM_PAIRS)
            yield from self._compare_numbers([self.plan])
            if self._changes_training(self.plan):
                self.plan = {}
        yield ProbeRequest(True, {})
        yield ProbeRequest(False, dict(self.plan))
        yield from self._settle_rest()
        yield from self._try_enlarging()

    def _by_share(self) -> list[Factor]:
        """What may be planned, by the share of the step that it acts on."""
        return sorted((f for f in self.factors if f.planned and not f.ceiling), key=lambda f: -f.share)

    def _affordable(self, arms: dict[str, Config], floor: float, pairs: int) -> dict[str, Config]:
        """As many arms, in order, as can get that many more pairs before ``floor``; at least three."""
        each = self._seconds_an_arm()
        able = int((self.remaining() - floor) / (each * pairs)) if each else len(arms)
        return dict(list(arms.items())[: max(3, able)])

    def _screen(self) -> Steps:
        """Every arm alone, and small designs of those that interact; the less promising make way where time is short."""
        floor = (1 - SCREEN_SHARE) * self.budget
        last = self._enlarging()
        quick = {
            config_id(arm): arm for arm in self._arms if not self._late_seconds(arm) and config_id(arm) not in last
        }
        open_ones = self._affordable(quick, floor, SURE_PAIRS)
        if len(open_ones) < len(quick):
            # What trades something else for time waits for what is left at the end.
            can = {name: arm for name, arm in quick.items() if self._plannable(arm) or name in self._ceiling_ids}
            first = self.remaining() - FIRST_ROUND_SHARE * (self.remaining() - floor)
            open_ones = self._affordable(can, first, 1)
        while self.remaining() > floor:
            live = {AA_ARM: CONTROL, **self._affordable(self._by_promise(open_ones), floor, ROUNDS_AHEAD)}
            yield ProbeRequest(True, {})
            yield from self._round(live, "screen", floor)
            self._settle(live)
            open_ones = {
                name: arm for name, arm in open_ones.items()
                if name not in self.verdicts and name not in self.failed and len(self.values(name)) < SURE_PAIRS
            }
            if not open_ones and len(self.values(AA_ARM)) >= SURE_PAIRS:
                return

    def _plannable(self, arm: Config) -> bool:
        planned = {factor.slug for factor in self.factors if factor.planned and not factor.ceiling}
        return set(arm) <= planned and not self._changes_training(arm)

    def _by_promise(self, arms: dict[str, Config]) -> dict[str, Config]:
        """The arms with the highest hopes first: what the surrogate expects, and one standard deviation more."""
        if not self._seen():
            return arms
        model = self._surrogate()
        hopes = {
            name: math.inf if name in self._ceiling_ids else model.hope(arm) if self._plannable(arm) else -math.inf
            for name, arm in arms.items()
        }
        return dict(sorted(arms.items(), key=lambda entry: -hopes[entry[0]]))

    def _late_seconds(self, arm: Config) -> float:
        """About how long the first switch to ``arm`` takes, where that is long; 0 where it is not."""
        seconds = max((
            level.expected_seconds for factor in self.factors for level in factor.levels if arm.get(factor.slug) == level.name
        ), default=0.0)
        return seconds if seconds >= LATE_SECONDS else 0.0

    def _screen_late(self) -> Steps:
        """Arms whose first switch takes long (compilation) wait until the others are known, and need the time to be there."""
        floor = self._search_floor()
        late = sorted((arm for arm in self._arms if self._late_seconds(arm)), key=self._late_seconds)
        for arm in late:
            name = config_id(arm)
            while (
                name not in self.verdicts and name not in self.failed and len(self.values(name)) < 2 * stats.LOOKS[0]
                and self.remaining() > floor + (0 if self._entered(name) else LATE_RESERVE * self._late_seconds(arm))
            ):
                yield from self._round({name: arm}, "screen", floor)
                self._settle([name])

    def _trades(self) -> dict[str, Config]:
        """What is never part of a plan, does not enlarge the process, and has too few pairs for an interval."""
        never = {factor.slug for factor in self.factors if not factor.planned and not factor.ceiling}
        named = {config_id(arm): arm for arm in self._arms if never & set(arm) and not self._late_seconds(arm)}
        last = self._enlarging()
        return {
            name: arm for name, arm in named.items()
            if name not in last and name not in self.failed and len(self.values(name)) < TRADE_PAIRS
        }

    def _try_trades(self) -> Steps:
        """A block or two of everything that trades something else for time, so that nobody must ask what it would bring."""
        floor = max(0.0, self.remaining() - TRADES_SHARE * self.budget)
        for _ in range(TRADE_PAIRS):
            live = self._trades()
            if not live or self.remaining() <= floor:
                return
            yield from self._round(live, "settle", floor)
            self._settle(live)

    def _enlarging(self) -> dict[str, Config]:
        """What takes more memory than the user's own settings and is still open."""
        large = {factor.slug for factor in self.factors if factor.enlarges and not factor.ceiling}
        named = {config_id(arm): arm for arm in self._arms if large & set(arm)}
        return {name: arm for name, arm in named.items() if name not in self.verdicts and name not in self.failed}

    def _try_enlarging(self) -> Steps:
        """Larger batches and the like, when nothing else will be measured any more: see :attr:`Factor.enlarges`."""
        while self.remaining() > 0:
            live = self._enlarging()
            before = len(self.blocks)
            if live:
                yield from self._round(live, "settle", 0.0)
            if len(self.blocks) == before:
                return
            self._settle(live)

    def _entered(self, name: str) -> bool:
        return any(block["arm"] == name for block in self.blocks)

    def _promising(self, arm: str) -> float:
        values = self.values(arm)
        if len(values) < stats.LOOKS[0] or arm in self.failed:
            return -math.inf
        return stats.trimmed_mean(values)

    # -- the search for the best stack

    def _seen(self) -> list[tuple[Config, list[float]]]:
        """What may be planned, with its pairs so far."""
        arms = {block["arm"]: config_from_id(block["arm"]) for block in self.blocks if "=" in block["arm"]}
        found = [(arm, self.values(name)) for name, arm in arms.items() if self._plannable(arm)]
        return [(arm, values) for arm, values in found if values]

    def _any_quick(self) -> bool:
        return any(self._plannable(arm) and not self._late_seconds(arm) for arm in self._arms)

    def _surrogate(self) -> Surrogate:
        """What all blocks so far say together about stacks of what can be switched to quickly."""
        quick = [
            factor for factor in self.factors if factor.planned and not factor.ceiling
            and max(level.expected_seconds for level in factor.levels) < LATE_SECONDS
        ]
        noise = max(pairing.control_noise(self.blocks) or UNKNOWN_NOISE, LEAST_NOISE)
        banned = [*self.excluded, *self.failed]
        if not self.allow_numerics:
            banned += [arm for arm, said in self.numerics.items() if said == "changes training"]
        seen = [(arm, values) for arm, values in self._seen() if not self._late_seconds(arm)]
        return Surrogate(quick, seen, noise, math.log1p(self.smallest_effect), banned)

    def estimates(self) -> dict[str, dict[str, float]]:
        """What every change that was part of a stack does beside the rest of the plan, by the regression over all blocks.

        Left out where the blocks say less than what was assumed before them.
        By config id: ``center`` and ``deviation`` of the log speed-up, and ``blocks`` that it had a part in, alone or not.
        """
        if not self._any_quick() or not self._seen():
            return {}
        tried = [block["arm"] for block in self.blocks if block["phase"] != CONFIRM_PHASE and block["count"]]
        had = Counter(part for arm in tried for part in arm.split("+"))
        model, found = self._surrogate(), {}
        plan = {slug: level for slug, level in self.plan.items() if not self._late_seconds({slug: level})}
        for arm in self._arms:
            name = config_id(arm)
            if had[name] and name not in self.failed and self._plannable(arm) and not self._late_seconds(arm):
                ((slug, level),) = arm.items()
                center, deviation, before = model.beside(plan, slug, level)
                if deviation <= TOLD * before:
                    found[name] = {"center": round(center, 5), "deviation": round(deviation, 5), "blocks": had[name]}
        return found

    def _search(self, floor: float) -> Steps:
        """Draw stacks that may be the best, measure them beside the best so far, until none is likely to beat it."""
        bound = math.log1p(self.smallest_effect)
        known = False
        while self._any_quick() and self.remaining() > floor:
            model = self._surrogate()
            best = model.best(model.mean)
            draws = [model.draw(self._random) for _ in range(DRAWS // 3)]
            stacks = [model.best(weights) for weights in draws]
            regret = statistics.fmean(
                model.value(stack, weights) - model.value(best, weights)
                for stack, weights in zip(stacks, draws, strict=True)
            )
            if regret < bound / 2 and (not best or len(self.values(config_id(best))) >= stats.LOOKS[0]):
                break
            live = {config_id(stack): stack for stack in [best] if stack}
            for stack in stacks:
                if stack and len(live) < DRAWN + 1:
                    live.setdefault(config_id(stack), stack)
            if not live:
                break
            before, known = len(self.blocks), not known
            if (known and AA_ARM not in self.verdicts) or self._needs_aa():
                live[AA_ARM] = CONTROL
            yield from self._round(live, SEARCH_PHASE, floor)
            self._settle(name for name in live if name in self._named or name == AA_ARM)
            if len(self.blocks) == before:
                break
        self.plan = self._chosen()

    def _chosen(self) -> Config:
        """The best stack as far as known, of the changes that are likely to help it; empty where it is not faster for sure."""
        if not self._seen():
            return {}
        model = self._surrogate()
        plan = dict(model.best(model.mean))
        draws = [model.draw(self._random) for _ in range(DRAWS)]

        def sure(config: Config, without: Config) -> float:
            return statistics.fmean(
                model.speedup(config, weights) > model.speedup(without, weights) for weights in draws
            )

        while plan:
            less = {slug: {s: level for s, level in plan.items() if s != slug} for slug in plan}
            weakest = min(plan, key=lambda slug: sure(plan, less[slug]))
            if sure(plan, less[weakest]) >= MEMBER:
                break
            plan = less[weakest]
        return plan

    def _add_late(self) -> Steps:
        """What takes long to switch to, alone or on top of the plan, where it did better alone than nothing."""
        floor = self._search_floor()
        late = [
            arm for arm in self._arms
            if self._late_seconds(arm) and self._plannable(arm) and len(self.values(config_id(arm))) >= stats.LOOKS[0]
            and self._promising(config_id(arm)) >= math.log1p(self.smallest_effect)
        ]
        if not late:
            return
        best = max(late, key=lambda arm: self._promising(config_id(arm)))
        if not self.plan:
            if stats.interval(self.values(config_id(best)), pairing.control_noise(self.blocks)).low > 0:
                self.plan = best
            return
        stack = {**self.plan, **best}
        offered = [best] if self._entry_seconds(stack) > ENTRY_SHARE * self.remaining() else [best, stack]
        offered = without(offered, [*self.excluded, *self.failed])
        better = yield from self._better_than(self.plan, offered, min(floor, self.remaining() / 2))
        if better is not None:
            self.plan = better

    def _entry_seconds(self, arm: Config) -> float:
        """About how long the first block of ``arm`` takes to get going: as long as its slowest part took alone."""
        if any(block["arm"] == config_id(arm) for block in self.blocks):
            return 0.0
        cost = 0.0
        for slug, level in arm.items():
            alone = config_id({slug: level})
            first = next((block for block in self.blocks if block["arm"] == alone), None)
            if first is not None:
                cost = max(cost, first.get("switch", 0.0) + sum(first.get("warmup", ())))
        return cost

    def _compare_numbers(self, arms: Iterable[Config]) -> Steps:
        """Compare the numbers of what may be advised with the control's, where that was not done before."""
        touching = {factor.slug for factor in self.factors if factor.numerics and not factor.ceiling}
        # Part by part: what two changes do to the numbers together is no worse than what the worse one does.
        parts = {config_id({slug: arm[slug]}): {slug: arm[slug]} for arm in arms for slug in sorted(touching & set(arm))}
        parts = {name: part for name, part in parts.items() if name not in self.failed and name not in self.numerics}
        if not parts:
            return
        seconds = min(PARITY_SHARE * self.budget, self.remaining() / 2)
        result = yield ParityRequest(list(parts.values())[:MOST_COMPARED], seconds)
        if isinstance(result, ParityResult):
            self.numerics |= {record["arm"]: parity.judge(record) for record in result.records}

    def _changes_training(self, arm: Config) -> bool:
        """Whether a part of ``arm`` was seen to change the training; never, where the user allows that."""
        if self.allow_numerics:
            return False
        return any(self.numerics.get(config_id({slug: level})) == "changes training" for slug, level in arm.items())

    def _better_than(
        self, base: Config, stacks: Sequence[Config], floor: float
    ) -> Generator[Request, Result, Config | None]:
        """The stack that beats ``base`` clearly, by differences within the same rounds; None if none does."""
        live = {config_id(arm): arm for arm in stacks}
        base_id = config_id(base)
        gains: dict[str, list[float]] = {arm: [] for arm in live}
        for _ in range(2 * DECIDING_PAIRS):
            if not live or self.remaining() <= floor:
                break
            start = len(self.blocks)
            yield from self._round({base_id: base, **live}, SEARCH_PHASE, floor)
            # Blocks of this round with the control block before it, so that every arm finds its neighbours.
            now = pairing.log_speedups(self.blocks[max(0, start - 1):])
            here = {arm: pairs[-1][1] for (arm, _), pairs in now.items()}
            for arm in live:
                if arm in here and base_id in here:
                    gains[arm].append(here[arm] - here[base_id])
            for arm in list(live):
                if arm in self.failed:
                    del live[arm]
                elif len(gains[arm]) >= DECIDING_PAIRS:
                    shown = stats.interval(gains[arm], None, 0.05)
                    if shown.low > 0 or shown.high < math.log1p(self.smallest_effect):
                        del live[arm]
        won = {
            arm: stats.interval(got) for arm, got in gains.items() if len(got) >= stats.LOOKS[0] and arm not in self.failed
        }
        clear = [arm for arm, got in won.items() if got.low > 0 and got.center >= math.log1p(self.smallest_effect) / 2]
        if not clear:
            return None
        best = max(clear, key=lambda arm: won[arm].center)
        return next(arm for arm in stacks if config_id(arm) == best)

    def _confirm(self, pairs: int, floor: float = 0.0) -> Steps:
        if not self.plan:
            return
        name = config_id(self.plan)
        while self.remaining() > floor and len(self.values(name, confirm=True)) < pairs:
            before = len(self.blocks)
            yield from self._round({name: self.plan}, CONFIRM_PHASE, floor)
            vague = self._aa_is_vague(HOPELESS) and len(self.values(name, confirm=True)) % 2 == 0
            if self._needs_aa() or vague:  # without it the plan could not be believed: in blocks of a phase of their own
                yield from self._round({AA_ARM: CONTROL}, "settle", 0.0)
            if name in self.failed:
                self.plan = {}  # what fails now is no advice, however fast it was
                return
            if len(self.blocks) == before:
                return

    def _plan_is_vague(self) -> bool:
        """Whether what the plan brings is not known well. Asked of its interval's width alone: its value decides nothing."""
        name = config_id(self.plan)
        values = self.values(name, confirm=True)
        if not self.plan or name in self.failed or not 2 <= len(values) < MOST_CONFIRM_PAIRS:
            return False
        shown = stats.interval(values, pairing.control_noise(self.blocks))
        return (shown.high - shown.low) / 2 > CONFIRMED

    def _settle_rest(self, floor: float = 0.0, with_plan: bool = True) -> Steps:
        """What is left of the budget, but for ``floor`` seconds, goes to the questions that are still open.

        ``with_plan``: the plan has a block in every round. Confirmed within seconds, its effect is that of the machine's
        state of these seconds, and over a minute that of the states in between.
        """
        last = self._enlarging()
        named = {AA_ARM: CONTROL, **{config_id(arm): arm for arm in self._arms if config_id(arm) not in last}}
        noise = pairing.control_noise(self.blocks)

        def wanting(arm: str) -> float:
            if arm == AA_ARM:
                return -1.0
            more = stats.pairs_to_settle(self.values(arm), self.smallest_effect, self._comparisons, noise)
            return math.inf if more is None else float(more)

        while self.remaining() > floor:
            live = {
                a: c for a, c in named.items()
                if a not in self.verdicts and a not in self.failed and (self._entered(a) or not self._late_seconds(c))
            }
            # Those that need least first, and no more than can get there.
            live = self._affordable({a: live[a] for a in sorted(live, key=wanting)}, floor, stats.LOOKS[0])
            before = len(self.blocks)
            if with_plan and self._plan_is_vague():
                yield from self._round({config_id(self.plan): self.plan}, CONFIRM_PHASE, floor)
                if config_id(self.plan) in self.failed:
                    self.plan = {}
            if live:
                yield from self._round(live, "settle", floor)
            if len(self.blocks) == before:
                return
            self._settle(live)
