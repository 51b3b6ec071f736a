"""Whether one version of a training script is slower than another by more than is allowed: the decision alone."""

from __future__ import annotations

import math
import os
import statistics
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perfdoc import stats
from perfdoc.alternation import FEWEST_STARTS, PRIOR_DF, START_SPREAD, Ratio
from perfdoc.capture import Capture
from perfdoc.errors import PerfdocError
from perfdoc.measurement import Measurement

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

    def junit(self, name: str, seconds: float) -> str:
        """The verdict as JUnit XML: a regression is a failure, what could not be decided is skipped."""
        suite = ET.Element("testsuite", name=name, tests=str(len(self.checks)), time=f"{seconds:.1f}",
                           failures=str(sum(c.decision == "regression" for c in self.checks)),
                           skipped=str(sum(c.decision == "undecided" for c in self.checks)), errors="0")
        for check in self.checks:
            case = ET.SubElement(suite, "testcase", classname=name, name=check.name)
            if check.decision == "regression":
                ET.SubElement(case, "failure", message=check.said)
            elif check.decision == "undecided":
                ET.SubElement(case, "skipped", message=check.said)
            else:
                ET.SubElement(case, "system-out").text = check.said
        return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def failed_junit(name: str, message: str) -> str:
    """JUnit XML for a script that could not be measured."""
    suite = ET.Element("testsuite", name=name, tests="1", failures="0", skipped="0", errors="1")
    case = ET.SubElement(suite, "testcase", classname=name, name="step time")
    ET.SubElement(case, "error", message=message.splitlines()[0]).text = message
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


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
    low, high = ratio.bounds()
    change = f"{_percent(ratio.ratio)} [{_percent(low)}, {_percent(high)}]"
    allowed = f"at most {max_slowdown:+.1%} is allowed"
    said = {
        "fine": f"a step takes {change} of the base's time: {allowed}",
        "regression": f"a step takes {change} of the base's time: {allowed}",
        "undecided": f"a step takes {change} of the base's time, and {allowed}: more --budget would tell",
    }[decision]
    pairs = f"{ratio.starts} {'pair' if ratio.starts == 1 else 'pairs'} of processes"
    return Check("step time", decision, f"{said} ({pairs}, {ratio.rounds} rounds of blocks)")


def _percent(ratio: float) -> str:
    return f"{ratio:.1%}"


def count_checks(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[Check]:
    """What can be counted exactly: more of it than in the base is a regression. What varies by step is not judged."""
    found = []
    had, has = _syncs(base), _syncs(head)
    before, now = sum(had.values()), sum(has.values())
    more = _new_syncs(had, has)
    varying = {(str(site).rpartition(":")[0], str(call)) for side in (base, head) for site, call in side.get("varying", ())}
    if now > before and not varying & set(has - had):
        found.append(Check("host-device syncs", "regression", f"{now} a step, {before} in the base; new: {', '.join(more)}"))
    else:
        rest = f"; not judged, as they vary from step to step: {', '.join(sorted(c for _, c in varying))}" if varying else ""
        found.append(Check("host-device syncs", "fine", f"{now} a step, {before} in the base{rest}"))
    for key, name, unit in (("graph_breaks", "graph breaks", ""), ("input_bytes", "bytes given to the model", " a step")):
        one, other = base.get(key), head.get(key)
        if one is None or other is None:  # nothing was compiled in one of them; batches of varying size
            continue
        worse = other > one
        found.append(Check(name, "regression" if worse else "fine",
                           f"{_number(other)}{unit}, {_number(one)}{unit} in the base"))
    return found


def _number(value: int) -> str:
    return f"{value:,}"


def _syncs(counts: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Times a step, by file and call: lines move from revision to revision."""
    found: Counter[tuple[str, str]] = Counter()
    for site, call, times in counts.get("syncs", ()):
        found[str(site).rpartition(":")[0], str(call)] += int(times)
    return found


def _new_syncs(had: Counter[tuple[str, str]], has: Counter[tuple[str, str]]) -> list[str]:
    return [f"{call} in {os.path.basename(file)} ({times - had[file, call]:+d})" for (file, call), times in sorted(has.items())
            if times > had[file, call]]


# -- captures


MACHINE = (("machine", "cpu"), ("machine", "cores"), ("environment", "torch"), ("environment", "python"), ("loop", "device"),
           ("loop", "device_name"))
WORKLOAD = ("models", "parameters")


def comparable(base: Capture, head: Capture) -> None:
    """Raises PerfdocError where two captures are of different machines or workloads, or have no steps."""
    for capture, which in ((base, "base"), (head, "head")):
        if capture.loop is None or not control_steps(capture):
            raise PerfdocError(f"the {which} capture has no steps of a training loop in it")
    assert base.loop is not None
    assert head.loop is not None
    for group, name in MACHINE:
        one, other = ((getattr(c, group) or {}).get(name) for c in (base, head))
        if one != other:
            raise PerfdocError(f"different machines or environments: {name} is {one} in the base and {other} in the head. "
                               "Only captures of one machine can be compared.")
    for name in WORKLOAD:
        if base.loop[name] != head.loop[name]:
            raise PerfdocError(f"different workloads: {name} is {base.loop[name]} in the base, {head.loop[name]} in the head")
    sizes = [[(loader["dataset"], loader["batch_size"]) for loader in c.loop["loaders"]] for c in (base, head) if c.loop]
    if sizes[0] != sizes[1]:
        raise PerfdocError(f"different workloads: data sets and batch sizes are {sizes[0]} in the base, {sizes[1]} in the head")


def control_steps(capture: Capture) -> list[float]:
    """Seconds a step of the control's blocks; of single steps where there are no blocks."""
    blocks = [b["seconds"] / b["count"] for b in capture.blocks if b.get("arm") == "control" and b.get("count")]
    if len(blocks) >= 2:
        return blocks
    return [s for m in capture.measurements if isinstance(m, Measurement) and m.metric == "step.time" for s in m.samples]


def of_captures(base: Capture, head: Capture) -> Ratio:
    """The ratio of the steps of two captures. The machine's drift between the two runs is in no interval."""
    comparable(base, head)
    logs = [[math.log(s) for s in control_steps(c)] for c in (base, head)]
    centers = [stats.trimmed_mean(values) for values in logs]
    variances = [statistics.variance(values) / len(values) if len(values) > 1 else 0.01 for values in logs]
    return Ratio(centers[1] - centers[0], math.sqrt(sum(variances) + START_SPREAD**2), PRIOR_DF, FEWEST_STARTS,
                 min(map(len, logs)))
