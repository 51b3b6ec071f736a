"""What the changed script will do when it is run: the effect that was measured, for another process at another time."""

from __future__ import annotations

import math

from perfdoc.finding import Effect

RUN_SPREAD = 0.03
"""Standard deviation of the log speed-up from one run to another beyond what either measurement knows it to, and beyond page
faults: another process, another hour, another state of the machine. By likelihood (0.028) from 54 plans of twelve workloads
that were scanned, applied and verified (``benchmarks/predicted_vs_realised.py --patch``); the interval then holds 51 of the
realised values. Without the page faults' part it would have to be 0.06."""
NORMAL = 1.96
"""Two-sided 95% point of the normal distribution."""


def predicted(measured: Effect, fault_share: float = 0.0) -> Effect:
    """The effect with a prediction interval: the measured one's half-widths and that of the spread between runs, as
    independent errors of the log speed-up.

    ``fault_share``: of a step, what page faults take where they are most (``Evidence.fault_share``). Each of the two processes,
    original and changed, may take any number of faults up to that, which is more of a step where the step is faster: the
    uniform distribution's variance each, share^2 / 12 and (speed-up * share)^2 / 12. That a plan takes none in the scan says
    little: there it may be served from memory that the control's larger pieces left free.
    """
    changed_share = min(1.0, fault_share * measured.speedup)
    faults = math.hypot(fault_share, changed_share) / math.sqrt(12)
    center, more = math.log(measured.speedup), NORMAL * math.hypot(RUN_SPREAD, faults)
    low = center - math.hypot(center - math.log(measured.low), more)
    high = center + math.hypot(math.log(measured.high) - center, more)
    return Effect(measured.speedup, math.exp(low), math.exp(high), measured.pairs, measured.how)
