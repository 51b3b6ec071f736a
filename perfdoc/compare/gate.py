"""Whether one version of a training script is slower than another by more than is allowed: the decision alone."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from perfdoc.capture.document import Capture
from perfdoc.capture.records import Counts
from perfdoc.compare.paired_runs import FEWEST_STARTS
from perfdoc.compare.ratio import PRIOR_DF, START_SPREAD, Ratio
from perfdoc.core import stats
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.machine_state import BUSY_SHARE
from perfdoc.diagnosis.prediction import CORE_SPREAD, RUN_SPREAD, other_machine, widening

Decision = Literal["fine", "regression", "undecided"]
EXIT_CODES: Mapping[Decision, int] = {"fine": 0, "regression": 1, "undecided": 3}
ERROR = 0.05
"""Two-sided error of the interval at which a look claims a regression or passes a version.

Half of it, one-sided, is the chance that a version exactly as slow as is allowed is refused. One as fast as the base lies
another 5% away: of 500 such gates, resampled from recorded ones under load, none was refused (0.01 found fewer of the true
ones, 14 of 20 instead of 17)."""


@dataclass(frozen=True)
class Check:
    """One thing that is gated."""

    name: str
    decision: Decision
    said: str
    """One line with the figures."""


@dataclass(frozen=True)
class Verdict:
    """What the gate decides, and why."""

    checks: tuple[Check, ...]

    @property
    def decision(self) -> Decision:
        """The worst of the checks."""
        found = {check.decision for check in self.checks}
        return "regression" if "regression" in found else "undecided" if "undecided" in found else "fine"

    @property
    def exit_code(self) -> int:
        """0 fine, 1 regression, 3 undecided."""
        return EXIT_CODES[self.decision]

    def to_json(self, **more: Any) -> dict[str, Any]:
        """The verdict as ``--json`` prints it."""
        return {"decision": self.decision, "checks": [vars(check) for check in self.checks], **more}


def decide(ratio: Ratio, max_slowdown: float) -> Decision:
    """Compare the interval of ``seconds a step of head / of base`` with what is allowed (0.05: 5% slower)."""
    limit = 1.0 + max_slowdown
    if ratio.starts < FEWEST_STARTS:  # two processes of the same code differ: one pair tells nothing about that
        return "undecided"
    low, high = ratio.bounds(ERROR)
    return "regression" if low > limit else "fine" if high <= limit else "undecided"


def step_check(ratio: Ratio, max_slowdown: float) -> Check:
    """The step's time."""
    decision = decide(ratio, max_slowdown)
    allowed = f"at most {max_slowdown:+.1%} is allowed"
    said = f"{takes(ratio)}, and {allowed}" + (": more --budget would tell" if decision == "undecided" else "")
    pairs = f"{ratio.starts} {'pair' if ratio.starts == 1 else 'pairs'} of processes"
    return Check("step time", decision, f"{said} ({pairs}, {ratio.rounds} rounds of blocks)")


def takes(ratio: Ratio, step: str = "a step", of: str = "the base's") -> str:
    """``a step takes 107.2% [104.1%, 110.3%] of the base's time``, where that is known."""
    low, high = ratio.bounds()
    if not ratio.known:
        return f"how long {step} takes beside {of} time is not known yet"
    return f"{step} takes {ratio.ratio:.1%} [{low:.1%}, {high:.1%}] of {of} time"


def count_checks(base: Counts, head: Counts) -> list[Check]:
    """What can be counted exactly: more of it than in the base is a regression. What varies by step is not judged."""
    found = []
    had, has = _syncs(base), _syncs(head)
    before, now = sum(had.values()), sum(has.values())
    more = _new_syncs(had, has)
    varying = {(site.rpartition(":")[0], call) for side in (base, head) for site, call in side.varying}
    if now > before and not varying & set(has - had):
        found.append(Check("host-device syncs", "regression", f"{now} a step, {before} in the base; new: {', '.join(more)}"))
    else:
        rest = f"; not judged, as they vary from step to step: {', '.join(sorted(c for _, c in varying))}" if varying else ""
        found.append(Check("host-device syncs", "fine", f"{now} a step, {before} in the base{rest}"))
    for one, other, name, unit in ((base.graph_breaks, head.graph_breaks, "graph breaks", ""),
                                   (base.input_bytes, head.input_bytes, "bytes given to the model", " a step")):
        if one is None or other is None:  # nothing was compiled in one of them; batches of varying size
            continue
        worse = other > one
        found.append(Check(name, "regression" if worse else "fine",
                           f"{_number(other)}{unit}, {_number(one)}{unit} in the base"))
    return found


def _number(value: int) -> str:
    return f"{value:,}"


def _syncs(counts: Counts) -> Counter[tuple[str, str]]:
    """Times a step, by file and call: lines move from revision to revision."""
    found: Counter[tuple[str, str]] = Counter()
    for site, call, times in counts.syncs:
        found[site.rpartition(":")[0], call] += times
    return found


def _new_syncs(had: Counter[tuple[str, str]], has: Counter[tuple[str, str]]) -> list[str]:
    return [f"{call} in {os.path.basename(file)} ({times - had[file, call]:+d})" for (file, call), times in sorted(has.items())
            if times > had[file, call]]


# -- captures


MACHINE = (("machine", "system"), ("machine", "cpu"), ("machine", "cores"), ("environment", "torch"), ("environment", "cuda"),
           ("environment", "python"), ("loop", "device"), ("loop", "device_name"), ("loop", "cores"), ("loop", "ranks"))
WORKLOAD = ("models", "parameters")
IDENTITY = (("machine", "cpu"), ("machine", "cores"), ("machine", "host"), ("environment", "torch"))
"""What must be known of a capture, or it may be of any machine."""
FEWEST_BLOCKS = 4
"""Blocks (or steps) of the control below which nothing can be said of how a run wandered."""
STRETCHES = 4
"""Stretches of a run whose means show how far the machine wandered while it lasted."""
RUN_DF = 50.0
CORE_DF = 5.0
"""Degrees of freedom of :data:`RUN_SPREAD` and :data:`CORE_SPREAD`: 54 plans and six changes, less what was fitted."""


def comparable(base: Capture, head: Capture) -> None:
    """Raises PerfdocError where a comparison of two captures says nothing.

    That is where they are of different machines or workloads or do not say of which, where they have too few steps, and where
    a machine was busy (exit code 3: measured again, they may be comparable).
    """
    for capture, which in ((base, "base"), (head, "head")):
        if capture.loop is None or not control_steps(capture):
            raise PerfdocError(f"the {which} capture has no steps of a training loop in it")
        missing = [name for group, name in IDENTITY if not _known(capture, group, name)]
        if missing:
            raise PerfdocError(f"the {which} capture does not say which machine it is of ({', '.join(missing)} not known): "
                               "scan again with this perfdoc, or compare revisions in turns (`perfdoc gate --base REV`)")
        if len(control_steps(capture)) < FEWEST_BLOCKS:
            raise PerfdocError(f"the {which} capture has only {len(control_steps(capture))} blocks of the script as it is, and "
                               f"{FEWEST_BLOCKS} are needed: scan again with a larger --budget", 3)
    assert base.loop is not None
    assert head.loop is not None
    for group, name in MACHINE:
        one, other = (_known(c, group, name) for c in (base, head))
        if one != other:
            raise PerfdocError(f"different machines or environments: {name} is {one} in the base and {other} in the head. "
                               "Only captures of one machine can be compared.")
    # Containers have names of their own on one machine, and a machine that was started again keeps its name.
    if all(_known(base, "machine", name) != _known(head, "machine", name) or not _known(base, "machine", name)
           for name in ("host", "boot")):
        raise PerfdocError("the captures are of two machines, alike as they may be: their speeds differ by more than a gate "
                           "looks for. `perfdoc gate --base REV` compares revisions in turns on one.")
    for name in WORKLOAD:
        one, other = _known(base, "loop", name), _known(head, "loop", name)
        if one != other:
            raise PerfdocError(f"different workloads: {name} is {one} in the base, {other} in the head")
    sizes = [[(loader.dataset, loader.batch_size) for loader in c.loop.loaders] for c in (base, head) if c.loop]
    if sizes[0] != sizes[1]:
        raise PerfdocError(f"different workloads: data sets and batch sizes are {sizes[0]} in the base, {sizes[1]} in the head")
    for capture, which in ((base, "base"), (head, "head")):
        taken, cores = others_cores(capture)
        if taken > BUSY_SHARE * cores:
            raise PerfdocError(f"others took {taken:.2f} of {cores:g} cores while the {which} capture was made: its steps tell "
                               "nothing about the script. Scan again when the machine is quiet.", 3)


def _known(capture: Capture, part: str, name: str) -> Any:
    """A field of a part of a capture (``machine``, ``environment``, ``loop``); None where it is not known."""
    return getattr(getattr(capture, part), name, None)


def others_cores(capture: Capture) -> tuple[float, float]:
    """Cores that other processes and the hypervisor took on average, and those that there are; none where it was not seen."""
    seen = {m.metric: m.mean for m in capture.measurements if isinstance(m, Measurement) and m.samples}
    return seen.get("machine.other_cpu", 0.0) + seen.get("machine.steal", 0.0), float(capture.machine.cores or 1)


def control_steps(capture: Capture) -> list[float]:
    """Seconds a step of the control's blocks, in the order they ran; of single steps where there are no blocks."""
    found = sorted((b for b in capture.blocks if b.arm == "control" and b.count),
                   key=lambda b: (b.lap, b.i))
    blocks = [b.pace for b in found]
    if len(blocks) >= 2:
        return blocks
    return [s for m in capture.measurements if isinstance(m, Measurement) and m.metric == "step.time" for s in m.samples]


@dataclass(frozen=True)
class Spread:
    """How far the steps of one script may lie apart in two runs on one machine, standard deviation in log units."""

    error: float
    df: float
    said: str
    """Where it is known from."""


def runs_spread(capture: Capture) -> Spread:
    """What two processes of one script at two times differ by, on one machine, before either was measured.

    ``RUN_SPREAD`` and ``CORE_SPREAD`` are of a *speed-up* in two runs, a scan and a verify. In it cancels what both of its
    sides have in common, which a step's own time has too, so ``RUN_SPREAD`` counts for each of the two runs here.
    ``CORE_SPREAD`` counts once: where it was seen, one thread took the same time in both runs, so it is all of the step that
    computes with several, from one run to the other. ``START_SPREAD`` is of one process of either side, as in ``gate --base``.
    Where the machine is of another kind than those, ``RUN_SPREAD`` counts ``OTHER_MACHINE`` times.
    """
    assert capture.loop is not None
    times = widening(capture.loop, capture.machine)
    parts = [(2 * (times * RUN_SPREAD) ** 2, RUN_DF), (START_SPREAD**2, PRIOR_DF)]
    said = "other changes that were measured twice"
    if capture.loop.device == "cpu" and capture.loop.threads > 1:
        parts.append((CORE_SPREAD**2, CORE_DF))
        said += ", on several cores"
    if times > 1:
        said += f", and for more than there, since here is {other_machine(capture.loop, capture.machine)}"
    said += ","
    return Spread(math.sqrt(sum(v for v, _ in parts)), together(parts), said)


def together(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each given with its own (Satterthwaite)."""
    return sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts if v)


def wandering(logs: Sequence[float]) -> float:
    """Variance of a run's level that it shows itself: between the means of its stretches, not divided by their number.

    The other run is no further stretch of this one: what came and went over minutes may be there all of its time, or never.
    It holds the error of a mean of blocks as well.
    """
    length = len(logs) / STRETCHES
    means = [stats.trimmed_mean(logs[round(length * n):round(length * (n + 1))]) for n in range(STRETCHES)]
    return statistics.variance(means)


def of_captures(base: Capture, head: Capture) -> tuple[Ratio, Spread]:
    """The ratio of the steps of two captures, one process a side, and what it was taken that runs differ by."""
    comparable(base, head)
    logs = [[math.log(s) for s in control_steps(c)] for c in (base, head)]
    centers = [stats.trimmed_mean(values) for values in logs]
    known = max((runs_spread(base), runs_spread(head)), key=lambda spread: spread.error)
    parts = [(known.error**2, known.df), *((wandering(values), STRETCHES - 1.0) for values in logs)]
    ratio = Ratio(centers[1] - centers[0], math.sqrt(sum(v for v, _ in parts)), together(parts), 1, min(map(len, logs)))
    return ratio, known


def capture_check(ratio: Ratio, known: Spread, max_slowdown: float) -> Check:
    """The step's time in two captures: only what no two runs of the same script differ by is a regression."""
    low, high = ratio.bounds(ERROR)
    limit = 1 + max_slowdown
    decision: Decision = "regression" if low > limit else "fine" if high <= limit else "undecided"
    half = math.expm1(stats.t_critical(ERROR, known.df) * known.error)
    said = (f"{takes(ratio)}, and at most {max_slowdown:+.1%} is allowed (one process "
            f"a side, at two times: the interval allows for {half:.0%} between runs of one script, as in {known.said} and for "
            "how far either run wandered)")
    if decision == "undecided":
        said += "; `perfdoc gate --base REV` compares revisions in turns, which tells less than that apart"
    return Check("step time", decision, said)
