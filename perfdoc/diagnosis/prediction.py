"""What the changed script will do when it is run: the effect that was measured, for another process at another time."""

from __future__ import annotations

import math

from perfdoc.capture.records import Loop
from perfdoc.capture.run import Machine
from perfdoc.core.finding import Effect

RUN_SPREAD = 0.03
"""Standard deviation of the log speed-up from one run to another beyond what either measurement knows it to, and beyond page
faults: another process, another hour, another state of the machine. By likelihood (0.028) from 54 plans of twelve workloads
that were scanned, applied and verified (``benchmarks/predicted_vs_realised.py --patch``); the interval then holds 51 of the
realised values. Without the page faults' part it would have to be 0.06."""
CORE_SPREAD = 0.09
"""The same, more, for a change of how many threads compute: what a further core brings comes and goes on a shared machine.
A two-threaded script on two virtual cores took 11.7 ms a step for half a minute and 15.2 ms for the next, without perfdoc; in
a scan of it the control went from 13.7 to 16.4 ms, while one thread took 19.7 before and after. From six such changes of four
workloads that were realised (``benchmarks/predicted_vs_realised.py``): root mean square of the log errors 0.098, less what the
rest of the interval knows; a part of that was of ``verify``, which then took from the second core what it looked with. Where
workers take the threads' place (seven plans) nothing of it was seen."""
KNOWN_CORES = 2
"""Cores of all machines that both spreads come from; none had a GPU."""
OTHER_MACHINE = 2.0
"""Times by which ``RUN_SPREAD`` is taken to be larger on a machine of another kind. Nothing was measured there. Many cores
share caches, memory and clock with more neighbours, and a GPU's step depends on a host that is slower or faster by turns.
Among the two-core machines alone the median error of the same six scripts went from 1.3% (a quiet one) to 8.9%, in eight runs
that have 3.8% in the middle: a machine may show twice of what the others do. So the interval is that of twice the spread: too
wide rather than wrong. ``CORE_SPREAD`` stays: it is of one core of two, and one of sixteen brings less."""
NORMAL = 1.96
"""Two-sided 95% point of the normal distribution."""
UNSEEN = 0.25
"""Of the most page faults a step that the control takes, how many more the changed script takes in a process of its own than
the plan takes in the scan, less what the original takes more. In 42 plans that leave loading where it is, it took 0.39 of them
(quartiles 0.26 and 0.52) and the plan 0.00 in the scan, the original 0.82 where the control took 0.69, of a step that is longer
by the speed-up. With 0.25 the mean log error of 54 plans is -0.3% in place of +1.8%."""


def other_machine(loop: Loop, machine: Machine) -> str:
    """In what a capture's machine differs from those that the spreads come from: ``a GPU``, ``16 cores``; empty if in nothing.

    ``loop`` and ``machine`` of a capture.
    """
    if loop.device != "cpu":
        return "a GPU"
    there, usable = float(machine.cores or loop.cores), loop.cores
    if there == usable == KNOWN_CORES:
        return ""
    cores = f"{there:g} core{'' if there == 1 else 's'}"
    return cores if there == usable else f"{cores}, of which {usable:g} may be used"


def widening(loop: Loop, machine: Machine) -> float:
    """By how much the spread between runs is larger on a capture's machine than where it was measured."""
    return OTHER_MACHINE if other_machine(loop, machine) else 1.0


def spread(other_cores: bool = False, widened: float = 1.0) -> float:
    """Standard deviation of a log speed-up from run to run, beyond page faults.

    ``other_cores``: whether the change lets another number of threads compute. ``widened``: see :func:`widening`.
    """
    return math.hypot(widened * RUN_SPREAD, CORE_SPREAD if other_cores else 0.0)


def predicted(
    measured: Effect, fault_share: float = 0.0, unseen: float = 0.0, run_spread: float = RUN_SPREAD
) -> Effect:
    """The effect with a prediction interval: the measured one's half-widths and that of the spread between runs, as
    independent errors of the log speed-up.

    ``fault_share``: of a step, what page faults take where they are most (``Evidence.fault_share``). Each of the two processes,
    original and changed, may take any number of faults up to that, which is more of a step where the step is faster: the
    uniform distribution's variance each, share^2 / 12 and (speed-up * share)^2 / 12. ``unseen``: of the original's step, what
    the changed script will take of faults that the scan did not show (``Evidence.unseen_faults``); the estimate allows for it.
    ``run_spread``: that of the change (:func:`spread`).
    """
    changed_share = min(1.0, fault_share * measured.speedup)
    more = NORMAL * math.hypot(run_spread, math.hypot(fault_share, changed_share) / math.sqrt(12))
    down, up = math.log(measured.speedup / measured.low), math.log(measured.high / measured.speedup)
    speedup = 1 / (1 / measured.speedup + unseen)
    low, high = (speedup * math.exp(half) for half in (-math.hypot(down, more), math.hypot(up, more)))
    return Effect(speedup, low, high, measured.pairs, measured.how)
