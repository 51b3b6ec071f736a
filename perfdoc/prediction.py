"""What the changed script will do when it is run: the effect that was measured, for another process at another time."""

from __future__ import annotations

import math

from perfdoc.finding import Effect

RUN_SPREAD = 0.035
"""Standard deviation of the log speed-up from one run to another beyond what either measurement knows it to, and beyond page
faults: another process, another hour, another state of the machine. By likelihood (0.034) and by moments (0.033) from 24 plans
of twelve workloads that were scanned, applied and verified (``benchmarks/predicted_vs_realised.py --patch``); without the page
faults' part it would have to be 0.07."""
NORMAL = 1.96
"""Two-sided 95% point of the normal distribution."""


def predicted(measured: Effect, fault_share: float = 0.0) -> Effect:
    """The effect with a prediction interval: the measured one's half-widths and that of the spread between runs, as
    independent errors of the log speed-up.

    ``fault_share``: of a step, what page faults take where they are most (``Evidence.fault_share``). Each of the two processes,
    original and changed, may have any share up to it, the uniform distribution's variance each: share^2 / 12.
    """
    center, more = math.log(measured.speedup), NORMAL * math.hypot(RUN_SPREAD, fault_share / math.sqrt(6))
    low = center - math.hypot(center - math.log(measured.low), more)
    high = center + math.hypot(math.log(measured.high) - center, more)
    return Effect(measured.speedup, math.exp(low), math.exp(high), measured.pairs, measured.how)
