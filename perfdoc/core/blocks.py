"""Blocks: stretches of consecutive steps under one arm, and how they are paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from perfdoc.core import stats
from perfdoc.core.typed_json import About

CONTROL_ARM = "control"
AA_ARM = "A/A"

SEARCH_PHASE = "search"
CONFIRM_PHASE = "confirm"
"""Blocks of this phase were run after the plan was chosen: only they say how fast the plan is, free of selection bias."""


Count = Annotated[int, About(minimum=0)]
Seconds = Annotated[float, About(minimum=0)]


@dataclass(frozen=True)
class Block:
    """Consecutive steps under one arm, the device synchronised at both ends. All durations are in seconds."""

    lap: Annotated[int, About("Launch of the command, from 0.", minimum=0)]
    i: Annotated[int, About("Position in the lap, from 0.", minimum=0)]
    arm: Annotated[str, About("control, A/A (the control against itself), or slug=level joined by +.",
                              pattern="^(control|A/A|[a-z][a-z0-9_]*=.+)$")]
    phase: Annotated[str, About("Phase of the experiment.", pattern="^(screen|search|confirm|settle)$")]
    count: Annotated[int, About("Steps counted.", minimum=0)]
    seconds: Annotated[float, About("Duration of the counted steps together.", minimum=0)]
    steps: Annotated[list[Seconds], About(
        "Duration of each counted step; empty on devices that work asynchronously, where no single step is seen.")]
    warmup: Annotated[list[Seconds], About("Durations of the uncounted steps after the switch.")]
    switch: Annotated[float, About("Duration of the switch, drained batches included.", minimum=0)]
    drained: Annotated[int, About("Prefetched batches thrown away at the switch.", minimum=0)]
    irregular: Annotated[int, About("Steps left out because they did other work (validation, another loader).", minimum=0)]
    faults: Annotated[Count | None, About(
        "Page faults of the training process while it ran that were answered without reading a disk.")] = None
    device_phases: Annotated[list[float] | None, About(
        "Device seconds a step by phase: data, transfer, forward, loss, backward, optimizer, other.",
        shortest=7, longest=7)] = None
    work: Annotated[float, About("Samples a step processed relative to the user's own step.", above=0)] = 1.0
    peak: Annotated[Count | None, About(
        "Most bytes of device memory allocated at once, where the device tells.")] = None

    @property
    def pace(self) -> float:
        """Mean seconds a counted step. Raises ZeroDivisionError where no step was counted."""
        return self.seconds / self.count


STALL = 1.5
RARE = 25
FEWEST_STEPS = 8
"""See :class:`Stalls`: how far above the others a step must be, one in how many may be, and from how many on."""


class Pair(NamedTuple):
    """A block of an arm beside the control."""

    i: int
    """The block's position in its lap."""
    value: float
    """Log speed-up."""
    controls: tuple[tuple[tuple[int, int], float], ...]
    """The control blocks it was compared with, as (lap, position), and the share of each."""


def log_seconds(block: Block, longest: float = math.inf) -> float:
    """Log of the block's mean duration of the work of one of the user's own steps, in seconds.

    ``longest``: what is above it in a single step does not count, in seconds.
    """
    steps = block.steps
    over = math.fsum(max(0.0, step - longest) for step in steps) if steps and max(steps) > longest else 0.0
    return math.log((block.seconds - over) / (block.count * block.work))


class Stalls:
    """How long a single step counts at most, so that one that stalled does not spoil a block of two or three steps.

    Of all steps the slowest 4% are set aside; what is above 1.5 times the slowest of the others is cut to that. Steps that are
    slow again and again (a burst of workers that has run dry) are not that rare, and stay as they are.

    An arm and the control that it is compared with are cut at the same multiple of their median steps, found from the steps of
    both together, or else a stall that hits both equally often would favour one of them: few steps do not show how far they may
    lie apart, and an arm with two stalls in eight steps is not bursty where the control has two in eighty. What is usual in one
    of the two by itself is never cut. Below eight steps of the control nothing is.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        steps: dict[str, list[float]] = {}
        for block in blocks:
            steps.setdefault(block.arm, []).extend(block.steps)
        # The lower of two medians: of two steps, the one that did not stall.
        self._middle = {arm: sorted(found)[(len(found) - 1) // 2] or 1e-9 for arm, found in steps.items() if found}
        self._apart = {arm: sorted(step / self._middle[arm] for step in found) for arm, found in steps.items() if found}
        self._found: dict[str, float] = {}

    def longest(self, arm: str, beside: str) -> float:
        """What a step of ``arm`` counts at most in a comparison with ``beside``, one of the two the control; in seconds."""
        other = beside if arm == CONTROL_ARM else arm
        if other not in self._found:
            self._found[other] = self._multiple(self._apart.get(CONTROL_ARM, []), self._apart.get(other, []))
        return self._found[other] * self._middle.get(arm, math.inf)

    @staticmethod
    def _multiple(control: Sequence[float], arm: Sequence[float]) -> float:
        """By how much the longest step that counts is longer than the median, from the multiples of both in ascending order."""
        if len(control) < FEWEST_STEPS:
            return math.inf
        aside = max(1, (len(control) + len(arm)) // RARE)
        both = sorted([*control[-aside - 1:], *arm[-aside - 1:]])
        own = [found[-1 - _usual(len(found))] for found in (control, arm) if len(found) >= FEWEST_STEPS]
        return STALL * max(both[-1 - aside], *own)


def _usual(steps: int) -> int:
    """How many of so many steps may be slow by chance where one in 25 is: a standard deviation more than expected."""
    return max(1, int(steps / RARE + math.sqrt(steps / RARE)))


def log_speedups(blocks: Iterable[Block]) -> dict[tuple[str, str], list[Pair]]:
    """Paired log speed-ups by (arm, phase).

    Every block of an arm is compared with the control as it would have been at its place: the nearest control blocks
    before and after it in the same lap, interpolated in their logs by position, so that a drift of the machine cancels to
    first order. With a control on one side only, that one is taken; without any in its lap the block has no pair.
    """
    laps: dict[int, list[Block]] = {}
    kept = [block for block in blocks if block.count]
    stalls = Stalls(kept)
    for block in kept:
        laps.setdefault(block.lap, []).append(block)
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for number, lap in laps.items():
        lap.sort(key=lambda block: block.i)
        for place, block in enumerate(lap):
            if block.arm == CONTROL_ARM:
                continue
            beside = []
            for direction in (-1, 1):
                at = place + direction
                while 0 <= at < len(lap) and lap[at].arm != CONTROL_ARM:
                    at += direction
                if 0 <= at < len(lap):
                    beside.append((abs(at - place), lap[at]))
            if not beside:
                continue
            distance = sum(far for far, _ in beside)
            # The nearer one has the larger share; one alone has all of it.
            shares = [1 - far / distance if len(beside) == 2 else 1.0 for far, _ in beside]
            longest = stalls.longest(CONTROL_ARM, block.arm)
            control = math.fsum(share * log_seconds(found, longest) for share, (_, found) in zip(shares, beside, strict=True))
            used = tuple(((number, found.i), share) for share, (_, found) in zip(shares, beside, strict=True))
            own = log_seconds(block, stalls.longest(block.arm, CONTROL_ARM))
            pair = Pair(block.i, control - own, used)
            pairs.setdefault((block.arm, block.phase), []).append(pair)
    return pairs


def control_noise(blocks: Iterable[Block]) -> float | None:
    """Variance between neighbouring control blocks (see :func:`perfdoc.core.stats.control_noise`), the worst lap's."""
    laps: dict[int, list[tuple[int, float]]] = {}
    controls = [block for block in blocks if block.count and block.arm == CONTROL_ARM]
    longest = Stalls(controls).longest(CONTROL_ARM, CONTROL_ARM)
    for block in controls:
        laps.setdefault(block.lap, []).append((block.i, log_seconds(block, longest)))
    noises = [stats.control_noise([seconds for _, seconds in sorted(lap)]) for lap in laps.values()]
    return max((noise for noise in noises if noise is not None), default=None)


Pairs = Mapping[tuple[str, str], Sequence[Pair]]
"""What :func:`log_speedups` returns."""


def _pairs_of(pairs: Pairs, arm: str, confirm: bool) -> list[Pair]:
    return [pair for (name, phase), found in pairs.items() if name == arm and (phase == CONFIRM_PHASE) == confirm
            for pair in found]


def arm_values(pairs: Pairs, arm: str, confirm: bool = False) -> list[float]:
    """All paired log speed-ups of ``arm``: those of the confirm phase only, or all others."""
    return [pair.value for pair in _pairs_of(pairs, arm, confirm)]


def overlap(pairs: Pairs, arm: str, confirm: bool = False) -> stats.Overlap:
    """What the pairs of :func:`arm_values` have in common by the control blocks that they share.

    The mean of the pairs gives control block j the weight of all its shares together, so of one block's variance the sum over
    all pairs has sum_j(sum_k w_kj)^2 from the controls. What is left of it without each pair's own sum_j(w_kj)^2 is covariance.
    """
    found = _pairs_of(pairs, arm, confirm)
    if len(found) < 2:
        return stats.NO_OVERLAP
    weights: dict[tuple[int, int], float] = {}
    own = 0.0
    for pair in found:
        for control, share in pair.controls:
            weights[control] = weights.get(control, 0.0) + share
            own += share**2
    together = math.fsum(weight**2 for weight in weights.values())
    return stats.Overlap(1 + own / len(found), max(0.0, together - own) / (len(found) * (len(found) - 1)))
