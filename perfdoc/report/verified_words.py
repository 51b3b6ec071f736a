"""What ``perfdoc verify`` found, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from perfdoc.capture.verified import OriginalStep, Verified
from perfdoc.core.durations import seconds
from perfdoc.diagnosis.machine_state import FAULT_SHARE, TRY_KEEPING
from perfdoc.report.figures import realised

OTHER_STATE = 1.15
"""Minimum ratio of the original's step now to the scan's, either way, from which that is said to bear on the comparison."""


def lines(verified: Verified) -> list[str]:
    """One line a fact: what was changed, predicted and realised, and how the original ran."""
    shown = [f"patch      {', '.join(verified.edited)}"] if verified.edited else []
    shown += [f"variable   {name}={value}" for name, value in verified.variables.items()]
    if verified.left_out:
        shown.append(f"left out   {', '.join(verified.left_out)}: no safe edit is known, see the snippet")
    said, real = verified.predicted, verified.realised
    if said and verified.measured:
        shown.append(f"predicted  {said.words} for another run; in the scan's own it was {verified.measured.words}")
        if verified.other_machine:
            shown.append("           wider, as how far runs lie apart is known from two cores without a GPU: here is "
                         f"{verified.other_machine}")
    elif verified.left_out:
        shown.append("predicted  nothing: this much of the plan was not measured on its own")
    pairs = f"{real.starts} {'pair' if real.starts == 1 else 'pairs'} of processes"
    shown.append(f"realised   {realised(real)} ({pairs}, {real.rounds} rounds of blocks)")
    if said and said.known and real.known:
        where = "inside" if verified.inside else "outside"
        shown.append(f"error      {verified.error:+.1%}, realised value {where} the predicted interval")
    shown.append(f"original   {pace(verified.original_step)}")
    faults = page_faults(verified.page_faults, verified.page_fault, verified.original_step.now, verified.variables)
    return [*shown, f"memory     {faults}"] if faults else shown


def pace(step: OriginalStep) -> str:
    """How long the original's step takes now, and what it took when the ratio was predicted."""
    if step.in_scan is None:
        return f"{seconds(step.now)} a step"
    said = f"{seconds(step.now)} a step now, {seconds(step.in_scan)} in the scan"
    if abs(math.log(step.now / step.in_scan)) < math.log(OTHER_STATE):
        return said
    return (f"{said}: the same code runs at another speed (clock rate, who else uses the machine, what the allocator keeps), "
            "and what a change brings depends on that. Scan again now to compare like with like")


def page_faults(counts: Mapping[str, float], cost: float | None, step: float, added: Mapping[str, str]) -> str | None:
    """What a step takes of new memory, where that costs something; in seconds: ``cost`` of a fault, the original's ``step``."""
    before, after = counts.values()
    if cost is None or max(before, after) * cost < FAULT_SHARE * step:
        return None
    said = f"{before:,.0f} page faults a step ({before * cost / step:.0%} of it), {after:,.0f} in the other"
    if any(name.startswith("MALLOC_") for name in added) or "LD_PRELOAD" in added:
        return said
    return f"{said}: memory that goes back to the system and is given anew. What keeps it can be tried: {TRY_KEEPING}"
