"""Rounds of blocks: every arm once, in random order, with control blocks between; and how many of them the time allows."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Generator, Mapping

from perfdoc.core.blocks import AA_ARM, CONTROL_ARM
from perfdoc.core.treatment import CONTROL, Config
from perfdoc.inject.experiment.arm_results import ArmResults
from perfdoc.inject.experiment.design import without
from perfdoc.inject.experiment.policy import Policy
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, Request, Result, Steps


class Rounds:
    """Asks for blocks and keeps what they bring in ``known``. ``remaining()``: seconds left of the budget."""

    def __init__(self, known: ArmResults, remaining: Callable[[], float], rng: random.Random, policy: Policy) -> None:
        self._known = known
        self._remaining = remaining
        self._random = rng
        self._policy = policy
        self._last_was_control = False

    def control(self, phase: str) -> Generator[Request, Result, bool]:
        """A block of the user's own settings."""
        result = yield BlockRequest(CONTROL, CONTROL_ARM, phase)
        self._last_was_control = True
        return self._known.keep(result)

    def round(self, arms: Mapping[str, Config], phase: str, floor: float) -> Steps:
        """One block of every arm in random order, with control blocks before, after, and after every second arm.

        Ends early, but never without the closing control block, when less than ``floor`` seconds are left.
        """
        known = self._known
        order = list(arms)
        if AA_ARM in arms:
            # How far A/A is known bounds every verdict: in rounds of many arms it has several places.
            order += [AA_ARM] * (len(order) // self._policy.arms_an_aa - 1 + known.aa_is_vague())
        self._random.shuffle(order)
        if known.from_earlier:  # a script that is started again and again: what had the fewest blocks comes first
            order.sort(key=lambda arm: len(known.values(arm)))
        # However little time there is: what every verdict rests on, and what explains the step, has a block of its own.
        needed = {arm for arm in order if (arm == AA_ARM or arm in known.ceiling_ids) and not known.entered(arm)}
        order.sort(key=lambda arm: arm not in needed)
        for place, arm in enumerate(order):
            if self._remaining() <= (0.0 if arm in needed else floor):
                break
            if arm in known.failed or not without([arms[arm]], [*known.failed, *known.excluded]):
                continue
            if place % self._policy.arms_a_control == 0 and not self._last_was_control:
                yield from self.control(phase)
            result = yield BlockRequest(arms[arm], arm, phase)
            self._last_was_control = False
            if isinstance(result, BlockResult) and result.failed:
                known.fail(arm, arms[arm], result.failed)
            else:
                known.keep(result)
        if not self._last_was_control:
            yield from self.control(phase)

    # -- how many

    def seconds_an_arm(self) -> float:
        """About how long one more block of an arm takes, its share of the control blocks included; 0 before the first."""
        # A later block of the same arm has one or two steps of warm-up instead of the first one's many.
        seconds = [b.seconds * (1 + 1.5 / b.count) for b in self._known.blocks]
        return (1 + 1 / self._policy.arms_a_control) * statistics.fmean(seconds) if seconds else 0.0

    def arms_left(self) -> float:
        """About how many blocks of arms, with their control blocks, fit into the time that is left."""
        each = self.seconds_an_arm()
        return self._remaining() / each if each else math.inf

    def steps_are_slow(self) -> bool:
        """Whether so few blocks fit into the time, because steps are slow, that a search would answer nothing."""
        policy, controls = self._policy, 1 + 1 / self._policy.arms_a_control
        slow = self.seconds_an_arm() > policy.slow_block * controls
        return slow and self.arms_left() * controls < policy.scarce_blocks

    def affordable(self, arms: dict[str, Config], floor: float, pairs: int) -> dict[str, Config]:
        """As many arms, in order, as can get that many more pairs before ``floor``; at least three."""
        each = self.seconds_an_arm()
        able = int((self._remaining() - floor) / (each * pairs)) if each else len(arms)
        return dict(list(arms.items())[: max(3, able)])
