"""The experiment: which block comes next, when a question is settled, and which stack of changes is fastest.

Written as a generator that asks for blocks and is sent their results, so that the same code runs in a user's loop and
in simulations with known truth (``benchmarks/false_alarms.py``). No torch, no clock: time comes from ``remaining``.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any

from perfdoc.core import blocks as pairing
from perfdoc.core import stats
from perfdoc.core.blocks import AA_ARM, CONFIRM_PHASE, CONTROL_ARM, SEARCH_PHASE
from perfdoc.core.treatment import CONTROL, Config, config_id
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.combination_model import CombinationModel
from perfdoc.inject.experiment.design import Factor, without
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, ParityRequest, ProbeRequest, Request, Result, Steps

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
CONFIRM_PAIRS = 8
"""Pairs of the confirm phase before anything else: the plan's effect is estimated from these and later ones alone."""
AGAIN_SHARE = 0.03
"""Share of the budget after which the plan has a block again, while anything else of the user's own process is measured."""
ARMS_AN_AA = 5
"""Arms of a round for which there is one A/A block."""
HOPELESS = 0.2
"""Half-width of the A/A arm's interval, in log units, above which even the plan's confirmation makes room for more of it."""
ARMS_A_CONTROL = 2
"""Arms between two control blocks: one control serves two arms on either side, which is a quarter of the time saved."""
PARITY_SHARE = 0.12
"""Share of the budget for comparing numbers."""
MOST_COMPARED = 6
"""Treatments whose numbers are compared at a time."""
LATE_RESERVE = 1.5
"""Times its expected duration that must be left for a long first switch: rules of thumb about compilation are often short."""
ENTRY_SHARE = 0.5
"""A stack whose first block would take longer than this share of the time left to get going (compilation) is not tried."""
DECIDING_PAIRS = 5
"""Pairs after which what takes long to switch to is compared with the plan that does without it."""
SCARCE_BLOCKS = 30
"""Blocks in the budget below which a search would answer nothing: a few changes, named beforehand, are decided instead,
where it is the steps that are slow."""
SLOW_BLOCK = 1.0
"""Seconds a block from which steps are called slow."""
SEARCH_DRAWS = 16
"""Draws from the surrogate by which a round of the search is chosen, and its end."""


class Experiment:
    """One scan's experiment: the order of its phases and blocks.

    ``budget`` seconds in all; ``remaining()`` seconds left. What is known so far is in ``arm_results``, for whose
    ``smallest_effect``, ``history``, ``excluded`` and ``allow_numerics`` see there.
    """

    def __init__(self, factors: Sequence[Factor], budget: float, remaining: Callable[[], float], *, seed: int = 0,
                 smallest_effect: float = 0.02, history: Iterable[Mapping[str, Any]] = (), excluded: Collection[str] = (),
                 allow_numerics: bool = False, verdicts: Mapping[str, str] | None = None) -> None:
        self.budget = budget
        self.remaining = remaining
        self.arm_results = ArmResults(factors, smallest_effect, history, excluded, allow_numerics, verdicts or {})
        self.combinations = CombinationModel(self.arm_results)
        self.plan: Config = {}
        self._random = random.Random(seed)
        self._last_was_control = False
        self._confirmed_at = budget
        """Seconds that were left when the plan had its last block."""

    # -- asking for blocks

    def _control(self, phase: str) -> Generator[Request, Result, bool]:
        result = yield BlockRequest(CONTROL, CONTROL_ARM, phase)
        self._last_was_control = True
        return self.arm_results.keep(result)

    def _round(self, arms: Mapping[str, Config], phase: str, floor: float) -> Steps:
        """One block of every arm in random order, with control blocks before, after, and after every second arm.

        Ends early, but never without the closing control block, when less than ``floor`` seconds are left.
        """
        known = self.arm_results
        order = list(arms)
        if AA_ARM in arms:
            # How far A/A is known bounds every verdict: in rounds of many arms it has several places.
            order += [AA_ARM] * (len(order) // ARMS_AN_AA - 1 + known.aa_is_vague())
        self._random.shuffle(order)
        if known.from_earlier:  # a script that is started again and again: what had the fewest blocks comes first
            order.sort(key=lambda arm: len(known.values(arm)))
        # However little time there is: what every verdict rests on, and what explains the step, has a block of its own.
        needed = {arm for arm in order if (arm == AA_ARM or arm in known.ceiling_ids) and not known.entered(arm)}
        order.sort(key=lambda arm: arm not in needed)
        for place, arm in enumerate(order):
            if self.remaining() <= (0.0 if arm in needed else floor):
                break
            if arm in known.failed or not without([arms[arm]], [*known.failed, *known.excluded]):
                continue
            if place % ARMS_A_CONTROL == 0 and not self._last_was_control:
                yield from self._control(phase)
            result = yield BlockRequest(arms[arm], arm, phase)
            self._last_was_control = False
            if isinstance(result, BlockResult) and result.failed:
                known.fail(arm, arms[arm], result.failed)
            else:
                known.keep(result)
        if not self._last_was_control:
            yield from self._control(phase)

    # -- the phases

    def run(self) -> Steps:
        """The whole experiment, from the first control block to the confirmed plan."""
        known = self.arm_results
        yield from self._control("screen")
        if self._steps_are_slow():
            yield from self._decide_few()
            return
        yield from self._screen()
        yield from self._screen_late()
        if known.verdicts.get(AA_ARM) in ("helps", "hurts"):
            return
        yield from self._search(self._search_floor())
        yield from self._add_late()
        yield from self._compare_numbers([self.plan])
        if known.changes_training(self.plan):
            yield from self._search(max(self.remaining() / 2, self.remaining() - SCREEN_SHARE / 2 * self.budget))
            yield from self._add_late()
            yield from self._compare_numbers([self.plan])
            self.plan = {s: level for s, level in self.plan.items() if not known.changes_training({s: level})}
        # What a plan must have to be told comes before everything else.
        yield from self._confirm(stats.LOOKS[0])
        yield from self._confirm(CONFIRM_PAIRS, self._kept_for_the_end())
        yield from self._compare_numbers([arm for arm in known.arms if known.verdicts.get(config_id(arm)) == "helps"])
        if known.changes_training(self.plan):
            self.plan = {}  # a part that there was no time to compare before
        yield from self._settle_rest(self._kept_for_the_end())
        yield ProbeRequest(False, dict(self.plan))
        yield from self._try_trades()
        yield ProbeRequest(False, dict(self.plan), late=True)
        yield from self._settle_rest(ENLARGING_SHARE * self.budget if known.enlarging() else 0.0)
        # From here on the process is no more as the user's script made it: see Factor.enlarges.
        yield from self._try_enlarging()
        yield from self._settle_rest(0.0, with_plan=False)

    def _search_floor(self) -> float:
        """Seconds of the budget that must be left when the search ends."""
        return (1 - SEARCH_SHARE) * self.budget + self._kept_for_the_end()

    def _kept_for_the_end(self) -> float:
        """Seconds of the budget for what is measured when the plan is known."""
        trades, enlarging = self.arm_results.trades(TRADE_PAIRS), self.arm_results.enlarging()
        return math.fsum((PROBES_SHARE, TRADES_SHARE * bool(trades), ENLARGING_SHARE * bool(enlarging))) * self.budget

    def _seconds_an_arm(self) -> float:
        """About how long one more block of an arm takes, its share of the control blocks included; 0 before the first."""
        # A later block of the same arm has one or two steps of warm-up instead of the first one's many.
        seconds = [b["seconds"] * (1 + 1.5 / b["count"]) for b in self.arm_results.blocks]
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
        known = self.arm_results
        arms: dict[str, Config] = {}
        for factor in self._by_share():
            alone = [arm for arm in known.arms if set(arm) == {factor.slug} and known.plannable(arm)]
            own = [arm for arm in alone if not known.late_seconds(arm)]
            if own:
                arms[config_id(own[-1])] = own[-1]
        # Four pairs of A/A, four of every change, and four to confirm what helps.
        arms = dict(list(arms.items())[: max(1, int(self._arms_left() / stats.LOOKS[0]) - 2)])
        known.comparisons = max(1, len(arms))
        while self.remaining() > 0:
            live = {name: arm for name, arm in arms.items() if known.is_open(name)}
            if not live and not known.needs_aa():
                break
            if all(len(known.values(name)) >= stats.LOOKS[0] for name in live):
                # What did best goes on, with no more beside it than can still be settled.
                able = max(1, int(self._arms_left() / stats.LOOKS[0]) - 1)
                live = {name: live[name] for name in sorted(live, key=known.promising, reverse=True)[:able]}
            before = len(known.blocks)
            if known.needs_aa() or known.aa_is_vague():
                live[AA_ARM] = CONTROL
            yield from self._round(live, "screen", 0.0)
            known.settle(live)
            if len(known.blocks) == before:
                break
        helping = [name for name in arms if known.verdicts.get(name) == "helps"]
        if helping and not known.needs_aa():
            self.plan = arms[max(helping, key=lambda name: stats.trimmed_mean(known.values(name)))]
            yield from self._confirm(CONFIRM_PAIRS)
            yield from self._compare_numbers([self.plan])
            if known.changes_training(self.plan):
                self.plan = {}
        yield ProbeRequest(True, {})
        yield ProbeRequest(False, dict(self.plan))
        yield from self._settle_rest()
        yield from self._try_enlarging()

    def _by_share(self) -> list[Factor]:
        """What may be planned, by the share of the step that it acts on."""
        return sorted((f for f in self.arm_results.factors if f.planned and not f.ceiling), key=lambda f: -f.share)

    def _affordable(self, arms: dict[str, Config], floor: float, pairs: int) -> dict[str, Config]:
        """As many arms, in order, as can get that many more pairs before ``floor``; at least three."""
        each = self._seconds_an_arm()
        able = int((self.remaining() - floor) / (each * pairs)) if each else len(arms)
        return dict(list(arms.items())[: max(3, able)])

    def _screen(self) -> Steps:
        """Every arm alone, and small designs of those that interact; the less promising make way where time is short."""
        known = self.arm_results
        floor = (1 - SCREEN_SHARE) * self.budget
        last = known.enlarging()
        quick = {
            config_id(arm): arm for arm in known.arms if not known.late_seconds(arm) and config_id(arm) not in last
        }
        open_ones = self._affordable(quick, floor, SURE_PAIRS)
        if len(open_ones) < len(quick):
            # What trades something else for time waits for what is left at the end.
            can = {name: arm for name, arm in quick.items() if known.plannable(arm) or name in known.ceiling_ids}
            first = self.remaining() - FIRST_ROUND_SHARE * (self.remaining() - floor)
            open_ones = self._affordable(can, first, 1)
        while self.remaining() > floor:
            live = {AA_ARM: CONTROL, **self._affordable(self.combinations.by_promise(open_ones), floor, ROUNDS_AHEAD)}
            yield ProbeRequest(True, {})
            yield from self._round(live, "screen", floor)
            known.settle(live)
            open_ones = {
                name: arm for name, arm in open_ones.items() if known.is_open(name) and len(known.values(name)) < SURE_PAIRS
            }
            if not open_ones and len(known.values(AA_ARM)) >= SURE_PAIRS:
                return

    def _screen_late(self) -> Steps:
        """Arms whose first switch takes long (compilation) wait until the others are known, and need the time to be there."""
        known = self.arm_results
        floor = self._search_floor()
        late = sorted((arm for arm in known.arms if known.late_seconds(arm)), key=known.late_seconds)
        for arm in late:
            name = config_id(arm)
            while (
                known.is_open(name) and len(known.values(name)) < 2 * stats.LOOKS[0]
                and self.remaining() > floor + (0 if known.entered(name) else LATE_RESERVE * known.late_seconds(arm))
            ):
                yield from self._round({name: arm}, "screen", floor)
                known.settle([name])

    def _try_trades(self) -> Steps:
        """A block or two of everything that trades something else for time, so that nobody must ask what it would bring."""
        floor = max(0.0, self.remaining() - TRADES_SHARE * self.budget)
        for _ in range(TRADE_PAIRS):
            live = self.arm_results.trades(TRADE_PAIRS)
            if not live or self.remaining() <= floor:
                return
            if self._plan_is_due():
                yield from self._confirm_again(floor)
            yield from self._round(live, "settle", floor)
            self.arm_results.settle(live)

    def _try_enlarging(self) -> Steps:
        """Larger batches and the like, when nothing else will be measured any more: see :attr:`Factor.enlarges`."""
        known = self.arm_results
        rounds = 0
        while self.remaining() > 0:
            live = known.enlarging()
            before = len(known.blocks)
            if live:
                yield from self._round(live, "settle", 0.0)
            if len(known.blocks) == before:
                return
            known.settle(live)
            rounds += 1
            if rounds == 1:  # a few steps, also where the round took the rest of the budget: half an answer is none
                yield ProbeRequest(False, dict(self.plan), late=True)

    # -- the search for the best stack

    def _search(self, floor: float) -> Steps:
        """Draw stacks that may be the best, measure them beside the best so far, until none is likely to beat it."""
        known = self.arm_results
        named = {AA_ARM, *map(config_id, known.arms)}
        bound = math.log1p(known.smallest_effect)
        with_aa = False
        while self.combinations.any_quick() and self.remaining() > floor:
            model = self.combinations.surrogate()
            best = model.best(model.mean)
            draws = [model.draw(self._random) for _ in range(SEARCH_DRAWS)]
            stacks = [model.best(weights) for weights in draws]
            regret = statistics.fmean(
                model.value(stack, weights) - model.value(best, weights)
                for stack, weights in zip(stacks, draws, strict=True)
            )
            if regret < bound / 2 and (not best or len(known.values(config_id(best))) >= stats.LOOKS[0]):
                break
            live = {config_id(stack): stack for stack in [best] if stack}
            for stack in stacks:
                if stack and len(live) < DRAWN + 1:
                    live.setdefault(config_id(stack), stack)
            if not live:
                break
            before, with_aa = len(known.blocks), not with_aa
            if (with_aa and AA_ARM not in known.verdicts) or known.needs_aa():
                live[AA_ARM] = CONTROL
            yield from self._round(live, SEARCH_PHASE, floor)
            known.settle(name for name in live if name in named)
            if len(known.blocks) == before:
                break
        self.plan = self.combinations.best(self._random)

    def _add_late(self) -> Steps:
        """What takes long to switch to, alone or on top of the plan, where it did better alone than nothing."""
        known = self.arm_results
        floor = self._search_floor()
        late = [
            arm for arm in known.arms
            if known.late_seconds(arm) and known.plannable(arm) and len(known.values(config_id(arm))) >= stats.LOOKS[0]
            and known.promising(config_id(arm)) >= math.log1p(known.smallest_effect)
        ]
        if not late:
            return
        best = max(late, key=lambda arm: known.promising(config_id(arm)))
        if not self.plan:
            if known.interval(config_id(best)).low > 0:
                self.plan = best
            return
        stack = {**self.plan, **best}
        offered = [best] if known.entry_seconds(stack) > ENTRY_SHARE * self.remaining() else [best, stack]
        offered = without(offered, [*known.excluded, *known.failed])
        better = yield from self._better_than(self.plan, offered, min(floor, self.remaining() / 2))
        if better is not None:
            self.plan = better

    def _compare_numbers(self, arms: Iterable[Config]) -> Steps:
        """Compare the numbers of what may be advised with the control's, where that was not done before."""
        known = self.arm_results
        touching = {factor.slug for factor in known.factors if factor.numerics and not factor.ceiling}
        # Part by part: what two changes do to the numbers together is no worse than what the worse one does.
        parts = {config_id({slug: arm[slug]}): {slug: arm[slug]} for arm in arms for slug in sorted(touching & set(arm))}
        parts = {name: part for name, part in parts.items() if name not in known.failed and name not in known.numerics}
        if not parts:
            return
        seconds = min(PARITY_SHARE * self.budget, self.remaining() / 2)
        result = yield ParityRequest(list(parts.values())[:MOST_COMPARED], seconds)
        known.compared(result)

    def _better_than(
        self, base: Config, stacks: Sequence[Config], floor: float
    ) -> Generator[Request, Result, Config | None]:
        """The stack that beats ``base`` clearly, by differences within the same rounds; None if none does."""
        known = self.arm_results
        live = {config_id(arm): arm for arm in stacks}
        base_id = config_id(base)
        gains: dict[str, list[float]] = {arm: [] for arm in live}
        for _ in range(2 * DECIDING_PAIRS):
            if not live or self.remaining() <= floor:
                break
            start = len(known.blocks)
            yield from self._round({base_id: base, **live}, SEARCH_PHASE, floor)
            # Blocks of this round with the control block before it, so that every arm finds its neighbours.
            now = pairing.log_speedups(known.blocks[max(0, start - 1):])
            here = {arm: pairs[-1].value for (arm, _), pairs in now.items()}
            for arm in live:
                if arm in here and base_id in here:
                    gains[arm].append(here[arm] - here[base_id])
            for arm in list(live):
                if arm in known.failed:
                    del live[arm]
                elif len(gains[arm]) >= DECIDING_PAIRS:
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

    def _confirm(self, pairs: int, floor: float = 0.0) -> Steps:
        if not self.plan:
            return
        known = self.arm_results
        name = config_id(self.plan)
        while self.remaining() > floor and len(known.values(name, confirm=True)) < pairs:
            before = len(known.blocks)
            yield from self._confirm_again(floor)
            vague = known.aa_is_vague(HOPELESS) and len(known.values(name, confirm=True)) % 2 == 0
            if known.needs_aa() or vague:  # without it the plan could not be believed: in blocks of a phase of their own
                yield from self._round({AA_ARM: CONTROL}, "settle", 0.0)
            if not self.plan or len(known.blocks) == before:
                return

    def _confirm_again(self, floor: float) -> Steps:
        name = config_id(self.plan)
        yield from self._round({name: self.plan}, CONFIRM_PHASE, floor)
        self._confirmed_at = self.remaining()
        if name in self.arm_results.failed:
            self.plan = {}  # what fails now is no advice, however fast it was

    def _plan_is_due(self) -> bool:
        """Whether the plan's last block is so long ago that the machine may be in another state by now."""
        return bool(self.plan) and self._confirmed_at - self.remaining() > AGAIN_SHARE * self.budget

    def _settle_rest(self, floor: float = 0.0, with_plan: bool = True) -> Steps:
        """What is left of the budget, but for ``floor`` seconds, goes to the questions that are still open.

        ``with_plan``: the plan has a block in every round until it is known well, and then in some. Confirmed within seconds,
        its effect is that of the machine's state of these seconds, and over a minute that of the states in between. For the
        same reason one change alone that was decided within few pairs goes on in every round.
        """
        known = self.arm_results
        last = known.enlarging()
        named = {AA_ARM: CONTROL, **{config_id(arm): arm for arm in known.arms if config_id(arm) not in last}}
        noise = known.noise

        def wanting(arm: str) -> float:
            if arm == AA_ARM:
                return -1.0
            more = stats.pairs_to_settle(
                known.values(arm), known.smallest_effect, known.comparisons, noise, known.overlap(arm))
            return math.inf if more is None else float(more)

        while self.remaining() > floor:
            live = {a: c for a, c in named.items() if known.is_open(a) and (known.entered(a) or not known.late_seconds(c))}
            # Those that need least first, and no more than can get there.
            live = self._affordable({a: live[a] for a in sorted(live, key=wanting)}, floor, stats.LOOKS[0])
            before = len(known.blocks)
            if with_plan and (known.is_vague(self.plan) or (live and self._plan_is_due())):
                yield from self._confirm_again(floor)
            if with_plan and (live or len(known.blocks) > before):
                live |= known.vaguely_decided()
            if live:
                yield from self._round(live, "settle", floor)
            if len(known.blocks) == before:
                return
            known.settle(live)
