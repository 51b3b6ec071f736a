"""The experiment: which block comes next, when a question is settled, and which stack of changes is fastest.

Written as a generator that asks for blocks and is sent their results, so that the same code runs in a user's loop and
in simulations with known truth (``benchmarks/false_alarms.py``). No torch, no clock: time comes from ``remaining``.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfdoc import blocks as pairing
from perfdoc import parity, stats
from perfdoc.blocks import AA_ARM, CONFIRM_PHASE, CONTROL_ARM
from perfdoc.inject.design import Factor, extensions, screening_arms
from perfdoc.treatment import CONTROL, Config, config_id

SCREEN_SHARE = 0.6
"""Share of the budget after which screening makes way for stacking."""
STACK_SHARE = 0.8
"""Share of the budget after which stacking makes way for confirming the plan."""
CEILING_PAIRS = 6
"""Pairs after which a ceiling is known well enough: it explains, it is not advised."""
CONFIRM_PAIRS = 8
"""Pairs of the confirm phase: the plan's effect is estimated from these alone."""
ARMS_AN_AA = 5
"""Arms of a round for which there is one A/A block."""
ARMS_A_CONTROL = 2
"""Arms between two control blocks: one control serves two arms on either side, which is a quarter of the time saved."""
PARITY_SHARE = 0.12
"""Share of the budget for comparing numbers."""
MOST_COMPARED = 6
"""Treatments whose numbers are compared, the most promising first."""
LATE_SECONDS = 5.0
"""Expected duration of a first switch from which an arm waits until the others are known."""
LATE_RESERVE = 1.5
"""Times its expected duration that must be left for such a switch: rules of thumb about compilation are often short."""
ENTRY_SHARE = 0.5
"""A stack whose first block would take longer than this share of the time left to get going (compilation) is not tried."""
STACK_PAIRS = 5
"""Pairs after which a stack of two changes is compared with the better one alone."""


@dataclass(frozen=True)
class BlockRequest:
    """Run a block under ``config``; it is stored under ``arm`` and ``phase``."""

    config: Config
    arm: str
    phase: str


@dataclass(frozen=True)
class ProbeRequest:
    """Let the probes measure between two blocks. ``each_round``: which of the two kinds of probe."""

    each_round: bool
    plan: Config


@dataclass(frozen=True)
class ParityRequest:
    """Compare the numbers of these arms with the control's, in about ``seconds``. Answered with a :class:`ParityResult`."""

    arms: Sequence[Config]
    seconds: float


@dataclass(frozen=True)
class ParityResult:
    """Records as :func:`perfdoc.parity.judge` wants them, with their ``arm``."""

    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BlockResult:
    """What came of a block: its record, or why the arm cannot run here."""

    block: Mapping[str, Any] | None
    failed: str | None = None


Request = BlockRequest | ProbeRequest | ParityRequest
Result = BlockResult | ParityResult | None
Steps = Generator[Request, Result, None]


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
            order += [AA_ARM] * (len(order) // ARMS_AN_AA - 1)
        self._random.shuffle(order)
        for place, arm in enumerate(order):
            if self.remaining() <= floor:
                break
            if arm in self.failed:
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
        yield from self._screen()
        yield from self._screen_late()
        if self.verdicts.get(AA_ARM) in ("helps", "hurts"):
            return
        yield from self._compare_numbers()
        yield from self._stack()
        yield ProbeRequest(False, dict(self.plan))
        yield from self._confirm()
        yield from self._settle_rest()

    def _affordable(self, arms: dict[str, Config], floor: float) -> dict[str, Config]:
        """As many arms, in order, as can get enough pairs for a verdict before ``floor``; at least two."""
        # A later block of the same arm has one or two steps of warm-up instead of the first one's many.
        seconds = [b["seconds"] * (1 + 1.5 / b["count"]) for b in self.blocks]
        each = (1 + 1 / ARMS_A_CONTROL) * statistics.fmean(seconds) if seconds else 0.0
        able = int((self.remaining() - floor) / (each * stats.LOOKS[0])) if each else len(arms)
        return dict(list(arms.items())[: max(3, able)])

    def _screen(self) -> Steps:
        floor = (1 - SCREEN_SHARE) * self.budget
        named = {AA_ARM: CONTROL, **{config_id(arm): arm for arm in self._arms if not self._late_seconds(arm)}}
        live = self._affordable(named, floor)
        while live and self.remaining() > floor:
            yield ProbeRequest(True, {})
            yield from self._round(live, "screen", floor)
            self._settle(live)
            live = {a: c for a, c in live.items() if a not in self.verdicts and a not in self.failed}
            if set(live) <= {AA_ARM} and len(self.values(AA_ARM)) >= 12:
                return

    def _late_seconds(self, arm: Config) -> float:
        """About how long the first switch to ``arm`` takes, where that is long; 0 where it is not."""
        seconds = max((
            level.expected_seconds for factor in self.factors for level in factor.levels if arm.get(factor.slug) == level.name
        ), default=0.0)
        return seconds if seconds >= LATE_SECONDS else 0.0

    def _screen_late(self) -> Steps:
        """Arms whose first switch takes long (compilation) wait until the others are known, and need the time to be there."""
        floor = (1 - STACK_SHARE) * self.budget
        late = sorted((arm for arm in self._arms if self._late_seconds(arm)), key=self._late_seconds)
        for arm in late:
            name = config_id(arm)
            while (
                name not in self.verdicts and name not in self.failed and len(self.values(name)) < 2 * stats.LOOKS[0]
                and self.remaining() > floor + (0 if self._entered(name) else LATE_RESERVE * self._late_seconds(arm))
            ):
                yield from self._round({name: arm}, "screen", floor)
                self._settle([name])

    def _entered(self, name: str) -> bool:
        return any(block["arm"] == name for block in self.blocks)

    def _promising(self, arm: str) -> float:
        values = self.values(arm)
        if len(values) < stats.LOOKS[0] or arm in self.failed:
            return -math.inf
        return stats.trimmed_mean(values)

    def _stack(self) -> Steps:
        """Forward selection from the best arm: add the change that helps most on top, until none does."""
        planned = {factor.slug for factor in self.factors if factor.planned and not factor.ceiling}
        candidates = [arm for arm in self._arms if set(arm) <= planned and not self._changes_training(arm)]
        best = max(candidates, key=lambda arm: self._promising(config_id(arm)), default=None)
        noise = pairing.control_noise(self.blocks)
        if best is None or self._promising(config_id(best)) < math.log1p(self.smallest_effect):
            return
        shown = stats.interval(self.values(config_id(best)), noise)
        if shown.low <= 0:
            return
        self.plan = dict(best)
        floor = (1 - STACK_SHARE) * self.budget
        while self.remaining() > floor:
            offered = [
                arm for arm in extensions(self.plan, self.factors, [*self.excluded, *self.failed])
                if self.verdicts.get(config_id(self._added(arm))) != "hurts" and not self._changes_training(arm)
                and self._entry_seconds(arm) < ENTRY_SHARE * (self.remaining() - floor)
                # Measured in the screen already as part of a joint design, and not better: no need to ask again.
                and not (len(self.values(config_id(arm))) >= STACK_PAIRS
                         and self._promising(config_id(arm)) < self._promising(config_id(self.plan)))
            ]
            # Those that did best alone first, and no more than three at a time, so that the rounds stay short.
            offered.sort(key=lambda arm: -self._promising(config_id(self._added(arm))))
            better = yield from self._better_than(self.plan, offered[:3], floor)
            if better is None:
                return
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

    def _compare_numbers(self) -> Steps:
        """Compare the numbers of whatever may be advised with the control's; what changes the training is not stacked."""
        touching = {factor.slug for factor in self.factors if factor.numerics and not factor.ceiling}
        promising = [
            arm for arm in self._arms
            if self._promising(config_id(arm)) > 0 and self.verdicts.get(config_id(arm)) not in ("hurts", "no difference")
        ]
        promising.sort(key=lambda arm: -self._promising(config_id(arm)))
        # Part by part: what two changes do to the numbers together is no worse than what the worse one does.
        parts: dict[str, Config] = {}
        for arm in promising:
            for slug in touching & set(arm):
                parts.setdefault(config_id({slug: arm[slug]}), {slug: arm[slug]})
        arms = [arm for name, arm in parts.items() if name not in self.failed][:MOST_COMPARED]
        if not arms:
            return
        result = yield ParityRequest(arms, min(PARITY_SHARE * self.budget, self.remaining() / 2))
        if isinstance(result, ParityResult):
            self.numerics = {record["arm"]: parity.judge(record) for record in result.records}

    def _changes_training(self, arm: Config) -> bool:
        """Whether a part of ``arm`` was seen to change the training; never, where the user allows that."""
        if self.allow_numerics:
            return False
        return any(self.numerics.get(config_id({slug: level})) == "changes training" for slug, level in arm.items())

    def _added(self, arm: Config) -> Config:
        return {slug: level for slug, level in arm.items() if slug not in self.plan}

    def _better_than(
        self, base: Config, stacks: Sequence[Config], floor: float
    ) -> Generator[Request, Result, Config | None]:
        """The stack that beats ``base`` clearly, by differences within the same rounds; None if none does."""
        live = {config_id(arm): arm for arm in stacks}
        base_id = config_id(base)
        gains: dict[str, list[float]] = {arm: [] for arm in live}
        for _ in range(2 * STACK_PAIRS):
            if not live or self.remaining() <= floor:
                break
            start = len(self.blocks)
            yield from self._round({base_id: base, **live}, "stack", floor)
            # Blocks of this round with the control block before it, so that every arm finds its neighbours.
            now = pairing.log_speedups(self.blocks[max(0, start - 1):])
            here = {arm: pairs[-1][1] for (arm, _), pairs in now.items()}
            for arm in live:
                if arm in here and base_id in here:
                    gains[arm].append(here[arm] - here[base_id])
            for arm in list(live):
                if arm in self.failed:
                    del live[arm]
                elif len(gains[arm]) >= STACK_PAIRS:
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

    def _confirm(self) -> Steps:
        if not self.plan:
            return
        name = config_id(self.plan)
        while self.remaining() > 0 and len(self.values(name, confirm=True)) < CONFIRM_PAIRS:
            before = len(self.blocks)
            yield from self._round({name: self.plan}, CONFIRM_PHASE, 0.0)
            if name in self.failed:
                self.plan = {}  # what fails now is no advice, however fast it was
                return
            if len(self.blocks) == before:
                return

    def _settle_rest(self) -> Steps:
        """What is left of the budget goes to the questions that are still open."""
        named = {AA_ARM: CONTROL, **{config_id(arm): arm for arm in self._arms}}
        noise = pairing.control_noise(self.blocks)

        def wanting(arm: str) -> float:
            if arm == AA_ARM:
                return -1.0
            more = stats.pairs_to_settle(self.values(arm), self.smallest_effect, self._comparisons, noise)
            return math.inf if more is None else float(more)

        while self.remaining() > 0:
            live = {
                a: c for a, c in named.items()
                if a not in self.verdicts and a not in self.failed and (self._entered(a) or not self._late_seconds(c))
            }
            # Those that need least first, and no more than can get there.
            live = self._affordable({a: live[a] for a in sorted(live, key=wanting)}, 0.0)
            if not live:
                return
            before = len(self.blocks)
            yield from self._round(live, "settle", 0.0)
            if len(self.blocks) == before:
                return
            self._settle(live)
