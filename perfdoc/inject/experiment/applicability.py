"""What every treatment says about the running loop, and the factors of the experiment that follow from it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from perfdoc.core.treatment import Offer, Treatment
from perfdoc.inject.experiment.design import Factor
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.system.recorder import Recorder

LONGEST_SWITCH = 0.3
"""Maximum share of the budget that the first switch to a level (compilation) may be expected to take."""

SEEN_FIRST = 1.0
"""Added to the share of the step for what takes back something that the script was seen to do at a line: where time is short,
it is tried before what may help or may not."""


def factors(
    loop: LoopState, treatments: Mapping[str, Treatment], recorder: Recorder, budget: float, only: Collection[str] = (),
    failed: Mapping[str, str] | None = None,
) -> list[Factor]:
    """Ask the treatments, write down what they offer, and give back those that can be tried.

    ``budget``: seconds. ``only``: slugs of the treatments that are wanted, beside ceilings; empty: all. ``failed``:
    those that could not look at the script (see :class:`Sensing`), with the error.
    """
    found = []
    shares = loop.finder.shares()
    for slug, treatment in treatments.items():
        if only and slug not in only and treatment.role != "ceiling":
            continue
        try:
            offer = _affordable(treatment.offer(loop), budget)
            if slug in (failed or {}):
                offer = Offer("untestable here", reason=(failed or {})[slug])
        except Exception as error:  # treatments may come from third parties: the reason stands in the report
            offer = Offer("untestable here", reason=f"{type(error).__name__}: {error}")
        recorder.write(
            "offer",
            slug=slug,
            title=treatment.title,
            status=offer.status,
            reason=offer.reason,
            levels=[[level.name, level.change] for level in offer.levels],
            role=treatment.role,
            cores=treatment.cores,
            numerics=treatment.numerics,
            site=offer.site,
        )
        if offer.status == "offered":
            share = sum(shares.get(phase, 0.0) for phase in treatment.phases) + (SEEN_FIRST if offer.site else 0.0)
            enlarges = any(treatment.work(level.name) > 1 for level in offer.levels)
            found.append(Factor(slug, offer.levels, treatment.interacts, treatment.role,
                                treatment.numerics, enlarges, share, treatment.contradicts))
    return found


def _affordable(offer: Offer, budget: float) -> Offer:
    """The offer without levels whose first switch takes too much of the budget; the reason says which would do."""
    levels = tuple(level for level in offer.levels if level.expected_seconds <= LONGEST_SWITCH * budget)
    if levels or offer.status != "offered":
        return replace(offer, levels=levels)
    needed = min(level.expected_seconds for level in offer.levels)
    return Offer("untestable here", reason=(
        f"its start takes about {needed:.0f} s: "
        f"try --budget {math.ceil(needed / LONGEST_SWITCH / 10) * 10}"
    ))
