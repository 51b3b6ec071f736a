"""What grew over a scan: the seconds of a phase at equal work, and sizes by the step. Worked out from the capture's moments."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from perfdoc.capture.document import Capture
from perfdoc.capture.records import Moment
from perfdoc.core import stats
from perfdoc.core.metrics import PHASES

FEWEST = 9
"""Minimum number of blocks of equal work for a comparison of late ones with early ones."""
EARLY, FEWEST_EARLY, LATE = 0.1, 3, 1 / 3
"""Shares of the blocks that are early and late: what sets in after a few hundred steps leaves few blocks before it."""
EQUAL_WORK = 0.1
"""Maximum difference between what the models are given a step, as a share, for blocks to do equal work."""
STEP_GREW = 0.1
"""Minimum growth of the step, as a share of the early one: less comes and goes with the machine."""
BEYOND_REST = 1.3
BEYOND_REST_LOW = 1.15
"""Minimum growth of a phase relative to the rest of the step, and the same at the lower end of its interval: a machine that
gets slower makes all phases slower."""
OF_GROWTH = 0.6
"""Minimum share of the step's growth that is the phase's."""
OUT_OF_ORDER = 0.15
"""Maximum share of the blocks that lie on the wrong side of the middle between early and late: growth, and no stalls."""
WAITED = 0.1
"""Minimum share of the early step that waiting for data takes for its growth to be told: a stock that is used up is none."""
SETTLING = 2.0
"""Time at the beginning of the experiment, in seconds, whose sizes are left out: memory pools fill up."""
MOST_WINDOWS = 12
FEWEST_WINDOWS = 6
"""Stretches of the scan in each of which a rate is taken: with fewer than six, their scatter says nothing."""
MOSTLY_GROWN = 0.8
"""Share of all growth up to which a rate is taken where it may come to an end: the last part of a copy takes very long."""


class Growth(NamedTuple):
    """A phase of the step that got slower at equal work. Durations in seconds a step."""

    phase: str
    early: float
    late: float
    low: float
    high: float
    """95% interval of ``late - early``."""
    step_early: float
    step_late: float
    since: int
    """Steps that had run when the phase had grown by half."""
    apart: int
    """Steps between the middles of the early blocks and of the late ones."""
    in_epoch: bool = False
    """Whether it grows within each epoch, and begins anew with the next: ``since`` is the batch of the epoch then."""

    @property
    def early_share(self) -> float:
        """Share of the step that the phase took at first."""
        return self.early / self.step_early

    @property
    def late_share(self) -> float:
        """Share of the step that it takes in the end."""
        return self.late / self.step_late


class Rate(NamedTuple):
    """How fast something grows, in its unit a step (or a batch), with its 95% interval."""

    center: float
    low: float
    high: float
    grown: float
    """By how much it has grown while it was watched."""


def moments(capture: Capture) -> list[Moment]:
    """The moments of the launch that has most of them, in their order.

    Those after a block with larger batches are left out: the process is not as the user's script made it from there on.
    """
    laps: dict[int, list[Moment]] = {}
    for moment in capture.moments:
        laps.setdefault(moment.lap, []).append(moment)
    most = max(laps, key=lambda lap: len(laps[lap]), default=None)
    if most is None:
        return []
    end = min((block.i for block in capture.blocks if block.lap == most and block.work != 1.0), default=math.inf)
    return sorted((moment for moment in laps[most] if moment.i < end), key=lambda moment: moment.steps)


def step_growth(capture: Capture) -> Growth | None:
    """The phase that got slower at equal work while the others did not as much; None where there is none.

    Looked for over the scan, and where epochs turned in it, over the epoch.
    """
    alike = _equal_work(moments(capture))
    found = _growth(alike, [moment.steps for moment in alike])
    if found is not None or all(after >= before for before, after in itertools.pairwise(_positions(alike))):
        return found
    # A block with the turn of an epoch in it belongs to the end of one and the beginning of the next.
    in_epoch = sorted((m for m in alike if (m.position or 0) >= m.count), key=lambda moment: moment.position or 0)
    found = _growth(in_epoch, _positions(in_epoch))
    return found._replace(in_epoch=True) if found is not None else None


def _positions(found: Sequence[Moment]) -> list[int]:
    """Places in the epoch; zeros where they are not known."""
    return [moment.position or 0 for moment in found]


def _growth(alike: Sequence[Moment], places: Sequence[int]) -> Growth | None:
    """The phase that grew in this order of the blocks, which stand at these places."""
    if len(alike) < FEWEST:
        return None
    early, late = alike[: max(FEWEST_EARLY, int(EARLY * len(alike)))], alike[-int(LATE * len(alike)):]
    step_early, step_late = (statistics.median(math.fsum(m.phases) for m in part) for part in (early, late))
    if step_late < (1 + STEP_GREW) * step_early:
        return None
    found = []
    for number, phase in enumerate(PHASES):
        at_first, at_last = [m.phases[number] for m in early], [m.phases[number] for m in late]
        before, after = statistics.median(at_first), statistics.median(at_last)
        if before <= 0 or (phase == "data" and before < WAITED * step_early):
            continue
        rest = max(1.0, _rest(late, number) / max(1e-9, _rest(early, number)))
        low, high = max(_by_groups(at_first, at_last), _by_pairs([m.phases[number] for m in alike], after - before))
        concentrated = after / before >= BEYOND_REST * rest and (before + low) / before >= BEYOND_REST_LOW * rest
        if not concentrated or after - before < OF_GROWTH * (step_late - step_early):
            continue
        place, wrong = _parted([m.phases[number] > (before + after) / 2 for m in alike])
        if wrong <= OUT_OF_ORDER * len(alike):
            apart = statistics.median(places[-len(late):]) - statistics.median(places[:len(early)])
            found.append(Growth(phase, before, after, low, high, step_early, step_late, places[place], max(1, round(apart))))
    return max(found, key=lambda growth: growth.late - growth.early, default=None)


def memory_rate(capture: Capture, device: bool = False) -> Rate | None:
    """Growth of the training process's own memory (``device``: of the device's), in bytes a step; None where it is unsteady.

    What is dropped at the turn of an epoch is no loss of growth: each epoch is looked at by itself.
    """
    epochs: list[list[tuple[int, float]]] = [[]]
    before = -1
    for moment in moments(capture):
        size = moment.device_memory if device else moment.memory
        if size is None or moment.seconds < SETTLING:
            continue
        if moment.position is not None and moment.position < before:
            epochs.append([])
        before = moment.position if moment.position is not None else before
        epochs[-1].append((moment.steps, float(size)))
    longest = max(epochs, key=len)
    if len(longest) > FEWEST_WINDOWS:
        return rate(longest)
    pairs = [pair for epoch in epochs for pair in itertools.pairwise(epoch) if pair[1][0] > pair[0][0]]
    return _of_slopes(pairs, sum(y - x for (_, x), (_, y) in pairs))


def worker_rate(capture: Capture) -> Rate | None:
    """Growth of the memory that a worker has for itself, the mean of all, in bytes a batch that they make together.

    Copies of what all workers share come to an end when everything has been visited: the rate is that until ``MOSTLY_GROWN``.
    """
    series: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    for moment in moments(capture):
        if moment.workers and moment.batches is not None:
            pids = tuple(sorted(pid for pid, _ in moment.workers))
            size = statistics.fmean(size for _, size in moment.workers)
            series.setdefault(pids, []).append((moment.batches, size))
    longest = max(series.values(), key=len, default=[])
    if not longest:
        return None
    mostly = longest[0][1] + MOSTLY_GROWN * (longest[-1][1] - longest[0][1])
    until = next(n for n, (_, size) in enumerate(longest) if size >= min(mostly, longest[-1][1]))
    found = rate(longest[:until + 1]) or rate(longest)
    return found._replace(grown=longest[-1][1] - longest[0][1]) if found is not None else None


def rate(points: Sequence[tuple[int, float]]) -> Rate | None:
    """The median slope of a series over stretches of it, which a few jumps do not move, and its interval from their order.

    None where there are too few stretches, or their slopes do not say that it grows.
    """
    points = list(dict(points).items())  # of several at one place the last
    windows = min(MOST_WINDOWS, len(points) - 1)
    if windows < FEWEST_WINDOWS:
        return None
    ends = [points[round(place * (len(points) - 1) / windows)] for place in range(windows + 1)]
    return _of_slopes(list(itertools.pairwise(ends)), points[-1][1] - points[0][1])


def _of_slopes(pairs: Sequence[tuple[tuple[int, float], tuple[int, float]]], grown: float) -> Rate | None:
    """The median slope between such pairs of points; None where they are too few, or it may be none."""
    if len(pairs) < FEWEST_WINDOWS:
        return None
    slopes = sorted((y - x) / (b - a) for (a, x), (b, y) in pairs)
    rank = _rank(len(slopes))
    low, high = slopes[rank], slopes[-1 - rank]
    return Rate(statistics.median(slopes), low, high, grown) if low > 0 else None


# -- parts


def _rest(found: Sequence[Moment], number: int) -> float:
    """Median seconds of all phases but one."""
    return statistics.median(math.fsum(m.phases) - m.phases[number] for m in found)


def _equal_work(found: Sequence[Moment]) -> list[Moment]:
    """Those whose models were given as much a step as in the last third."""
    late = [moment.work for moment in found[-(len(found) // 3):] if moment.work is not None]
    if not late:
        return list(found)
    usual = statistics.median(late)
    return [m for m in found if m.work is not None and abs(m.work - usual) <= EQUAL_WORK * usual]


def _by_groups(early: Sequence[float], late: Sequence[float]) -> tuple[float, float]:
    """95% interval of the difference of two medians, with the degrees of freedom of the smaller group: for growth at once."""
    difference = statistics.median(late) - statistics.median(early)
    error = math.hypot(stats.median_error(early), stats.median_error(late))
    half = stats.t_critical(0.05, min(len(early), len(late)) - 1) * error
    return difference - half, difference + half


def _by_pairs(values: Sequence[float], difference: float) -> tuple[float, float]:
    """The same for growth little by little, which scatters both groups: every block beside the one half of them later.

    The interval of these differences' median is scaled to ``difference``. No interval where they are few.
    """
    half = len(values) // 2
    apart = sorted(after - before for before, after in zip(values, values[-half:], strict=False))
    middle = statistics.median(apart) if apart else 0.0
    if half < FEWEST_WINDOWS or middle <= 0:
        return -math.inf, math.inf
    rank = _rank(half)
    return difference * apart[rank] / middle, difference * apart[-1 - rank] / middle


def _parted(above: Sequence[bool]) -> tuple[int, int]:
    """The place that parts those below from those above best, and how many lie on the wrong side of it."""
    wrong = sum(not one for one in above)
    place, fewest = 0, wrong
    for index, one in enumerate(above):
        wrong += 1 if one else -1
        if wrong < fewest:
            place, fewest = index + 1, wrong
    return min(place, len(above) - 1), fewest


def _rank(count: int) -> int:
    """How many of ``count`` values lie outside, at each end, of the 95% interval of their median (sign test)."""
    outside, chance = -1, 0.0
    for k in range(count // 2):
        chance += math.comb(count, k) / 2**count
        if 2 * chance > 0.05:
            break
        outside = k
    return max(0, outside)
