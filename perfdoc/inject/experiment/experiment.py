"""The experiment: which block comes next, when a question is settled, and which stack of changes is fastest.

Written as a generator that asks for blocks and is sent their results, so that the same code runs in a user's loop and
in simulations with known truth (``benchmarks/false_alarms.py``). No torch, no clock: time comes from ``remaining``.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from perfdoc.capture.records import Judged
from perfdoc.core import stats
from perfdoc.core.blocks import AA_ARM, CONFIRM_PHASE, SEARCH_PHASE, Block
from perfdoc.core.treatment import CONTROL, Config, config_id
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.combination_model import CombinationModel
from perfdoc.inject.experiment.design import Factor, without
from perfdoc.inject.experiment.plan_comparisons import PlanComparisons
from perfdoc.inject.experiment.policy import DEFAULT, Policy
from perfdoc.inject.experiment.requests import ParityRequest, ProbeRequest, Steps
from perfdoc.inject.experiment.rounds import Rounds


class Experiment:
    """One scan's experiment: the order of its phases and blocks.

    ``budget`` seconds in all; ``remaining()`` seconds left. What is known so far is in ``arm_results``, for whose
    ``smallest_effect``, ``history``, ``excluded`` and ``allow_numerics`` see there.
    """

    def __init__(self, factors: Sequence[Factor], budget: float, remaining: Callable[[], float], *, seed: int = 0,
                 smallest_effect: float = 0.02, history: Iterable[Block] = (), excluded: Collection[str] = (),
                 allow_numerics: bool = False, verdicts: Mapping[str, Judged] | None = None,
                 policy: Policy = DEFAULT) -> None:
        self.policy = policy
        self.budget = budget
        self.remaining = remaining
        self.arm_results = ArmResults(factors, smallest_effect, history, excluded, allow_numerics, verdicts, policy)
        self.combinations = CombinationModel(self.arm_results)
        self.plan: Config = {}
        self._random = random.Random(seed)
        self._rounds = Rounds(self.arm_results, remaining, self._random, policy)
        self._comparisons = PlanComparisons(
            self.arm_results, self.combinations, self._rounds, remaining, policy)
        self._confirmed_at = budget
        """Seconds that were left when the plan had its last block."""

    # -- the phases

    def run(self) -> Steps:
        """The whole experiment, from the first control block to the confirmed plan."""
        known = self.arm_results
        yield from self._rounds.control("screen")
        if self._rounds.steps_are_slow():
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
            yield from self._search(max(self.remaining() / 2, self.remaining() - self.policy.screen_share / 2 * self.budget))
            yield from self._add_late()
            yield from self._compare_numbers([self.plan])
            self.plan = {s: level for s, level in self.plan.items() if not known.changes_training({s: level})}
        floor = max(self.remaining() - self.policy.prune_share * self.budget, self._kept_for_the_end())
        self.plan = yield from self._comparisons.pruned(self.plan, floor)
        # What a plan must have to be told comes before everything else.
        yield from self._confirm(stats.LOOKS[0])
        yield from self._confirm(self.policy.confirm_pairs, self._kept_for_the_end())
        yield from self._compare_numbers([arm for arm in known.arms if known.verdicts.get(config_id(arm)) == "helps"])
        if known.changes_training(self.plan):
            self.plan = {}  # a part that there was no time to compare before
        yield from self._settle_rest(self._kept_for_the_end())
        yield ProbeRequest(False, dict(self.plan))
        yield from self._try_trades()
        yield ProbeRequest(False, dict(self.plan), late=True)
        yield from self._settle_rest(self._share_kept(trades=False) * self.budget)
        # From here on the process is no more as the user's script made it: see Factor.enlarges.
        yield from self._try_enlarging()
        yield from self._settle_rest(0.0, with_plan=False)

    def _search_floor(self) -> float:
        """Seconds of the budget that must be left when the search ends."""
        return (1 - self.policy.search_share) * self.budget + self._kept_for_the_end()

    def _kept_for_the_end(self) -> float:
        """Seconds of the budget for what is measured when the plan is known."""
        return (self.policy.probes_share + self._share_kept()) * self.budget

    def _share_kept(self, *, trades: bool = True) -> float:
        """Share of the budget kept for what enlarges the process and, with ``trades``, for what trades something for time."""
        policy, known = self.policy, self.arm_results
        shares = {
            "trades": policy.trades_share * bool(known.trades(policy.trade_pairs)),
            "enlarging": policy.enlarging_share * bool(known.enlarging()),
        }
        kept = shares["enlarging"] + trades * shares["trades"]
        if kept and self._nothing_to_plan():
            return policy.asked_share * kept / math.fsum(shares.values())
        return kept

    def _nothing_to_plan(self) -> bool:
        """Whether all that is to be tried trades something else for time, or enlarges the process."""
        return not any(factor.planned for factor in self.arm_results.factors)

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
        arms = dict(list(arms.items())[: max(1, int(self._rounds.arms_left() / stats.LOOKS[0]) - 2)])
        known.comparisons = max(1, len(arms))
        while self.remaining() > 0:
            live = {name: arm for name, arm in arms.items() if known.is_open(name)}
            if not live and not known.needs_aa():
                break
            if all(len(known.values(name)) >= stats.LOOKS[0] for name in live):
                # What did best goes on, with no more beside it than can still be settled.
                able = max(1, int(self._rounds.arms_left() / stats.LOOKS[0]) - 1)
                live = {name: live[name] for name in sorted(live, key=known.promising, reverse=True)[:able]}
            before = len(known.blocks)
            if known.needs_aa() or known.aa_is_vague():
                live[AA_ARM] = CONTROL
            yield from self._rounds.round(live, "screen", 0.0)
            known.settle(live)
            if len(known.blocks) == before:
                break
        helping = [name for name in arms if known.verdicts.get(name) == "helps"]
        if helping and not known.needs_aa():
            self.plan = arms[max(helping, key=lambda name: stats.trimmed_mean(known.values(name)))]
            yield from self._confirm(self.policy.confirm_pairs)
            yield from self._compare_numbers([self.plan])
            if known.changes_training(self.plan):
                self.plan = {}
        yield ProbeRequest(True, {})
        yield ProbeRequest(False, dict(self.plan))
        yield from self._settle_rest()
        yield from self._try_enlarging()

    def _by_share(self) -> list[Factor]:
        """What may be planned, by the share of the step that it acts on."""
        return sorted((f for f in self.arm_results.factors if f.planned), key=lambda f: -f.share)

    def _screen(self) -> Steps:
        """Every arm alone, and small designs of those that interact; the less promising make way where time is short."""
        known, rounds, policy = self.arm_results, self._rounds, self.policy
        floor = (1 - policy.screen_share) * self.budget
        last = known.enlarging()
        quick = {
            config_id(arm): arm for arm in known.arms if not known.late_seconds(arm) and config_id(arm) not in last
        }
        open_ones = rounds.affordable(quick, floor, policy.sure_pairs)
        if len(open_ones) < len(quick):
            # What trades something else for time waits for what is left at the end, unless there is nothing else.
            can = {
                name: arm for name, arm in quick.items()
                if known.plannable(arm) or name in known.ceiling_ids or self._nothing_to_plan()
            }
            first = self.remaining() - policy.first_round_share * (self.remaining() - floor)
            open_ones = rounds.affordable(can, first, 1)
        while self.remaining() > floor:
            likely = rounds.affordable(self.combinations.by_promise(open_ones), floor, policy.rounds_ahead)
            live = {AA_ARM: CONTROL, **likely}
            yield ProbeRequest(True, {})
            yield from rounds.round(live, "screen", floor)
            known.settle(live)
            open_ones = {
                name: arm for name, arm in open_ones.items()
                if known.is_open(name) and len(known.values(name)) < policy.sure_pairs
            }
            if not open_ones and len(known.values(AA_ARM)) >= policy.sure_pairs:
                return

    def _screen_late(self) -> Steps:
        """Arms whose first switch takes long (compilation) wait until the others are known, and need the time to be there."""
        known = self.arm_results
        floor = self._search_floor()
        late = sorted((arm for arm in known.arms if known.late_seconds(arm)), key=known.late_seconds)
        for arm in late:
            name, switch = config_id(arm), self.policy.late_reserve * known.late_seconds(arm)
            while (
                known.is_open(name) and len(known.values(name)) < 2 * stats.LOOKS[0]
                and self.remaining() > floor + (0 if known.entered(name) else switch)
            ):
                yield from self._rounds.round({name: arm}, "screen", floor)
                known.settle([name])

    def _try_trades(self) -> Steps:
        """A block or two of everything that trades something else for time, so that nobody must ask what it would bring."""
        floor = max(0.0, self.remaining() - (self._share_kept() - self._share_kept(trades=False)) * self.budget)
        for _ in range(self.policy.trade_pairs):
            live = self.arm_results.trades(self.policy.trade_pairs)
            if not live or self.remaining() <= floor:
                return
            if self._plan_is_due():
                yield from self._confirm_again(floor)
            yield from self._rounds.round(live, "settle", floor)
            self.arm_results.settle(live)

    def _try_enlarging(self) -> Steps:
        """Larger batches and the like, when nothing else will be measured any more: see :attr:`Factor.enlarges`."""
        known = self.arm_results
        rounds = 0
        while self.remaining() > 0:
            live = known.enlarging()
            before = len(known.blocks)
            if live:
                yield from self._rounds.round(live, "settle", 0.0)
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
            draws = [model.draw(self._random) for _ in range(self.policy.search_draws)]
            stacks = [model.best(weights) for weights in draws]
            regret = statistics.fmean(
                model.value(stack, weights) - model.value(best, weights)
                for stack, weights in zip(stacks, draws, strict=True)
            )
            if regret < bound / 2 and (not best or len(known.values(config_id(best))) >= stats.LOOKS[0]):
                break
            live = {config_id(stack): stack for stack in [best] if stack}
            for stack in stacks:
                if stack and len(live) < self.policy.drawn + 1:
                    live.setdefault(config_id(stack), stack)
            if not live:
                break
            before, with_aa = len(known.blocks), not with_aa
            if (with_aa and AA_ARM not in known.verdicts) or known.needs_aa():
                live[AA_ARM] = CONTROL
            yield from self._rounds.round(live, SEARCH_PHASE, floor)
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
        offered = [best] if known.entry_seconds(stack) > self.policy.entry_share * self.remaining() else [best, stack]
        offered = without(offered, [*known.excluded, *known.failed])
        better = yield from self._comparisons.better_than(self.plan, offered, min(floor, self.remaining() / 2))
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
        seconds = min(self.policy.numerics_share * self.budget, self.remaining() / 2)
        result = yield ParityRequest(list(parts.values())[:self.policy.most_compared], seconds)
        known.compared(result)

    def _confirm(self, pairs: int, floor: float = 0.0) -> Steps:
        if not self.plan:
            return
        known = self.arm_results
        name = config_id(self.plan)
        while self.remaining() > floor and len(known.values(name, confirm=True)) < pairs:
            before = len(known.blocks)
            yield from self._confirm_again(floor)
            vague = known.aa_is_vague(self.policy.hopeless) and len(known.values(name, confirm=True)) % 2 == 0
            if known.needs_aa() or vague:  # without it the plan could not be believed: in blocks of a phase of their own
                yield from self._rounds.round({AA_ARM: CONTROL}, "settle", 0.0)
            if not self.plan or len(known.blocks) == before:
                return

    def _confirm_again(self, floor: float) -> Steps:
        name = config_id(self.plan)
        yield from self._rounds.round({name: self.plan}, CONFIRM_PHASE, floor)
        self._confirmed_at = self.remaining()
        if name in self.arm_results.failed:
            self.plan = {}  # what fails now is no advice, however fast it was

    def _plan_is_due(self) -> bool:
        """Whether the plan's last block is so long ago that the machine may be in another state by now."""
        return bool(self.plan) and self._confirmed_at - self.remaining() > self.policy.again_share * self.budget

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
            live = self._rounds.affordable({a: live[a] for a in sorted(live, key=wanting)}, floor, stats.LOOKS[0])
            before = len(known.blocks)
            if with_plan and (known.is_vague(self.plan) or (live and self._plan_is_due())):
                yield from self._confirm_again(floor)
            if with_plan and (live or len(known.blocks) > before):
                live |= known.vaguely_decided()
            if live:
                yield from self._rounds.round(live, "settle", floor)
            if len(known.blocks) == before:
                return
            known.settle(live)
