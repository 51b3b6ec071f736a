"""Blocks: stretches of consecutive steps under one arm, and how they are paired.

A block is stored as a plain mapping (a line of the event file) with these keys, all durations in seconds:

``lap`` launch of the user's command it belongs to · ``i`` position in the lap · ``arm`` (``control``, ``A/A`` or a
config id) · ``phase`` of the experiment (``screen``, ``search``, ``confirm``, ``settle``) · ``count`` number of counted
steps · ``seconds`` their duration together, the device synchronised at both ends · ``steps`` their single durations
(empty where the device works asynchronously: the host's clock does not see single steps there) · ``warmup`` durations of
the uncounted steps after the switch · ``switch`` duration of the switch itself, batches thrown away included ·
``drained`` number of those batches · ``irregular`` number of steps left out because they did other work (validation,
another loader) · ``work`` samples a step processed relative to the user's own step, where that is not 1 · ``peak`` most
bytes of device memory that were allocated at once, where the device tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from perfdoc import stats

Block = Mapping[str, Any]

CONTROL_ARM = "control"
AA_ARM = "A/A"

SEARCH_PHASE = "search"
CONFIRM_PHASE = "confirm"
"""Blocks of this phase were run after the plan was chosen: only they say how fast the plan is, free of selection bias."""


STALL = 1.5
RARE = 25
FEWEST_STEPS = 8
"""See :func:`without_stalls`: how far above the others a step must be, one in how many may be, and from how many on."""


def log_seconds(block: Block) -> float:
    """Log of the block's mean duration of the work of one of the user's own steps, in seconds."""
    return math.log(block["seconds"] / (block["count"] * block.get("work", 1.0)))


def without_stalls(blocks: Iterable[Block]) -> list[Block]:
    """The blocks with single stalled steps cut down, so that one of them does not spoil a block of two or three steps.

    Of all steps of an arm the slowest 4% are set aside; what is above 1.5 times the slowest of the others is cut to that.
    Steps that are slow again and again (a burst of workers that has run dry) are not that rare, and stay as they are.
    """
    kept = [block for block in blocks if block["count"]]
    steps: dict[str, list[float]] = {}
    for block in kept:
        steps.setdefault(block["arm"], []).extend(block.get("steps", ()))
    caps = {
        arm: STALL * sorted(found)[-1 - max(1, len(found) // RARE)]
        for arm, found in steps.items() if len(found) >= FEWEST_STEPS
    }
    cut = []
    for block in kept:
        cap = caps.get(block["arm"], math.inf)
        over = math.fsum(max(0.0, step - cap) for step in block.get("steps", ()))
        cut.append({**block, "seconds": block["seconds"] - over} if over > 0 else block)
    return cut


def log_speedups(blocks: Iterable[Block]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Paired log speed-ups by (arm, phase), each with its block's position.

    Every block of an arm is compared with the control as it would have been at its place: the nearest control blocks
    before and after it in the same lap, interpolated in their logs by position, so that a drift of the machine cancels to
    first order. With a control on one side only, that one is taken; without any in its lap the block has no pair.
    """
    laps: dict[int, list[Block]] = {}
    for block in without_stalls(blocks):
        laps.setdefault(block["lap"], []).append(block)
    pairs: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for lap in laps.values():
        lap.sort(key=lambda block: int(block["i"]))
        for place, block in enumerate(lap):
            if block["arm"] == CONTROL_ARM:
                continue
            beside = []
            for direction in (-1, 1):
                at = place + direction
                while 0 <= at < len(lap) and lap[at]["arm"] != CONTROL_ARM:
                    at += direction
                if 0 <= at < len(lap):
                    beside.append((abs(at - place), log_seconds(lap[at])))
            if beside:
                if len(beside) == 2:
                    (before, first), (after, second) = beside
                    control = (after * first + before * second) / (before + after)
                else:
                    control = beside[0][1]
                value = control - log_seconds(block)
                pairs.setdefault((block["arm"], block["phase"]), []).append((int(block["i"]), value))
    return pairs


def control_noise(blocks: Iterable[Block]) -> float | None:
    """Variance between neighbouring control blocks (see :func:`perfdoc.stats.control_noise`), the worst lap's."""
    laps: dict[int, list[tuple[int, float]]] = {}
    for block in without_stalls(blocks):
        if block["arm"] == CONTROL_ARM:
            laps.setdefault(block["lap"], []).append((int(block["i"]), log_seconds(block)))
    noises = [stats.control_noise([seconds for _, seconds in sorted(lap)]) for lap in laps.values()]
    return max((noise for noise in noises if noise is not None), default=None)


Pairs = Mapping[tuple[str, str], Sequence[tuple[int, float]]]
"""What :func:`log_speedups` returns."""


def arm_values(pairs: Pairs, arm: str, confirm: bool = False) -> list[float]:
    """All paired log speed-ups of ``arm``: those of the confirm phase only, or all others."""
    return [
        value
        for (name, phase), found in pairs.items()
        if name == arm and (phase == CONFIRM_PHASE) == confirm
        for _, value in found
    ]
