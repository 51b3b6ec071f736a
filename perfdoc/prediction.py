"""What the changed script will do when it is run: the effect that was measured, for another process at another time."""

from __future__ import annotations

import math

from perfdoc.finding import Effect

RUN_SPREAD = 0.04
"""Standard deviation of the log speed-up from one run to another beyond what either measurement knows it to: another process,
another hour, another state of the machine. By moments from thirteen plans that were scanned, applied and verified
(``benchmarks/predicted_vs_realised.py --patch``): 0.048 over all, 0.014 without the two of the workload that varies most."""
NORMAL = 1.96
"""Two-sided 95% point of the normal distribution."""


def predicted(measured: Effect) -> Effect:
    """The effect with a prediction interval: the measured one's half-widths and that of the spread between runs, as
    independent errors of the log speed-up."""
    center, more = math.log(measured.speedup), NORMAL * RUN_SPREAD
    low = center - math.hypot(center - math.log(measured.low), more)
    high = center + math.hypot(math.log(measured.high) - center, more)
    return Effect(measured.speedup, math.exp(low), math.exp(high), measured.pairs, measured.how)
