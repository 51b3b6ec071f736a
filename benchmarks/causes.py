"""Is what slows a loop the first thing that a scan says, with its line, its share of the time and a ceiling that holds?

    python benchmarks/causes.py [--only NAME ...] [--budget 60] [--truth 60] [--json FILE] [--again FILE]

`workloads/causes` holds fifteen slow scripts with one known cause each, and one with which nothing is wrong. Each lies there
twice: `train.py`, and `fixed.py`, the same without the cause. For each of them

* the truth is measured: `fixed.py` against `train.py`, for --truth seconds (`cause_truth.py` tells how, by kind of cause).
  What the fix takes away of a step (of the run, where the cause lies between the steps) is the true share of the cause;
* `train.py` is scanned once, as `perfdoc scan --json --budget N train.py` on a copy that has made its data before. The first
  screen is that of `perfdoc report` on the same run.

The cause stands first where the first screen names a line of the culprit within its first ten lines, says there or above what
is wrong with it, and above it names neither another line nor anything that perfdoc can switch, the cause's own remedy excepted.
Of the control, the first sentence must say that nothing is wrong.

--again FILE takes the truths of an earlier --json FILE and measures only those that are not in it. With --budget 0 nothing is
scanned: the scans of that file are read again, or the truths are all there is. Exit code 1 where fewer than 9 of 10 causes
stand first, or the control is not told to be well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cause_case
import cause_said
import cause_truth
from cause_case import Case
from cause_said import Verdict
from cause_truth import Truth
from tabulate import tabulate

AIM = 0.9
"""Minimum share of the causes that stand first."""
CLOSE = 0.05
"""Maximum difference between the share that is said and the true one."""
NOT_SCANNED: dict[str, Any] = {"found": {"answer": ["not scanned"], "findings": []}, "screen": "", "seconds": 0.0}
PATIENCE = 300.0
"""Seconds beside twice the budget after which a scan is taken to hang."""
COLUMNS = "100"
"""Width of the terminal whose first screen is read."""


@dataclass
class Row:
    """One case: the truth, what was said, and how they compare."""

    case: Case
    truth: Truth | None
    scan: dict[str, Any]
    """``found``, ``screen`` and ``seconds`` of the scan."""
    verdict: Verdict

    @property
    def off(self) -> float | None:
        """By how much the share that is said lies above the true one."""
        return self.verdict.share - self.truth.share if self.truth and self.verdict.share is not None else None

    @property
    def ceiling_too_low(self) -> bool:
        """Whether the ceiling lies below what the fix really brings, even at the lower end of its interval."""
        return bool(self.truth and self.truth.low and self.verdict.ceiling is not None
                    and self.verdict.ceiling < self.truth.low)

    def figures(self) -> tuple[str, ...]:
        """What the cause takes, and what was said of it."""
        truth, verdict = self.truth, self.verdict
        real, share, grows = "", "", ""
        if truth is not None:
            real = f"{truth.gain:.2f}" + (f" [{truth.low:.2f}, {truth.high:.2f}]" if truth.low and truth.high else " (once)")
            share = f"{truth.share:.0%}" if truth.grows is None else ""
            grows = "" if truth.grows is None else f"{truth.grows:.2f} (fixed {truth.fixed_grows:.2f})"
        return (
            self.case.name, self.case.of, real, share, _said(verdict.share, "{:.0%}"), _said(self.off, "{:+.0%}"),
            _said(verdict.gain, "{:.2f}x"), _said(verdict.ceiling, "{:.1f}x") + " too low" * self.ceiling_too_low,
            grows, _said(verdict.grows, "{:.2f}"),
        )

    def words(self) -> tuple[str, ...]:
        """Where the cause stands, and what stands first."""
        verdict = self.verdict
        return (
            self.case.name, ", ".join(map(str, self.case.culprit)), "yes" if verdict.first else "no",
            "yes" if verdict.named else "no", str(verdict.rank or "-"), ", ".join(verdict.knobs_above)[:40] or "-",
            "; ".join(verdict.wrongly_said)[:40] or "-", verdict.stands_first[:90],
        )

    def to_json(self) -> dict[str, Any]:
        return {"name": self.case.name, "truth": self.truth.to_json() if self.truth else None, "scan": self.scan,
                "verdict": asdict(self.verdict)}


FIGURES = ("case", "of", "realised", "true share", "share said", "off", "gain said", "ceiling", "MiB a batch", "said")
WORDS = ("case", "culprit", "first", "line on the screen", "rank", "knobs above", "must not be said", "what stands first")


def _said(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def scan(work: Path, budget: float) -> dict[str, Any]:
    """Scan ``train.py`` in ``work``: the JSON, the first screen, and the seconds that it took; or that it failed."""
    began = time.monotonic()
    out, failure = _perfdoc(work, 2 * budget + PATIENCE, "scan", "--json", "--budget", f"{budget:g}", "train.py")
    seconds = time.monotonic() - began
    if not failure:
        screen, failure = _perfdoc(work, PATIENCE, "report")
    if failure:
        return {**NOT_SCANNED, "found": {"answer": [failure], "findings": []}, "seconds": seconds}
    return {"found": json.loads(out), "screen": screen, "seconds": seconds}


def _perfdoc(work: Path, patience: float, *arguments: str) -> tuple[str, str]:
    """What the command printed, and in which words it failed."""
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "perfdoc", *arguments], capture_output=True, text=True, check=False, cwd=work,
            env={**os.environ, "COLUMNS": COLUMNS}, stdin=subprocess.DEVNULL, timeout=patience,
        )
    except subprocess.TimeoutExpired:
        return "", f"perfdoc {arguments[0]} did not end in {patience:.0f} s"
    last = (ran.stderr.strip().splitlines() or [""])[-1]
    return ran.stdout, f"perfdoc {arguments[0]} failed with exit code {ran.returncode}: {last}" if ran.returncode else ""


def run(case: Case, budget: float, truth_seconds: float, before: dict[str, Any] | None) -> Row:
    """Measure and scan a copy of the case, or take what an earlier run knows of it."""
    truth = cause_truth.from_json(before["truth"]) if before and before["truth"] else None
    seen = None if budget else before["scan"] if before else NOT_SCANNED
    if seen is None or (truth is None and case.truth):
        with tempfile.TemporaryDirectory(prefix="perfdoc-cause-") as folder:
            work = Path(folder).resolve() / case.name
            shutil.copytree(case.folder, work, ignore=shutil.ignore_patterns("__pycache__", "cause.json"))
            cause_truth.prepare(case, work)
            if truth is None and case.truth:
                truth = cause_truth.measure(case, work, truth_seconds)
            if seen is None:
                seen = scan(work, budget)
    return Row(case, truth, seen, cause_said.judge(case, cause_said.read(seen["found"], seen["screen"])))


def summary(rows: list[Row]) -> str:
    """Of how many cases the cause stands first, how good shares and ceilings are, and what the control is told."""
    causes = [row for row in rows if row.case.of != "nothing"]
    off = [abs(row.off) for row in causes if row.off is not None]
    ceilings = [row for row in causes if row.verdict.ceiling is not None]
    said = [
        f"the true cause stands first in {sum(row.verdict.first for row in causes)} of {len(causes)}; a line of it is on the "
        f"first screen in {sum(row.verdict.named for row in causes)}, it is among the findings in "
        f"{sum(row.verdict.rank is not None for row in causes)}",
        f"shares said in {len(off)}: " + (
            f"off by {100 * sum(off) / len(off):.0f} points on average, {100 * max(off):.0f} at most, within "
            f"{100 * CLOSE:.0f} in {sum(value <= CLOSE for value in off)}" if off else "nothing to compare"),
        f"ceilings said in {len(ceilings)}, below the realised gain in {sum(row.ceiling_too_low for row in ceilings)}",
        f"knobs stand above the cause in {sum(bool(row.verdict.knobs_above) for row in causes)}; what must not be said is said "
        f"in {sum(bool(row.verdict.wrongly_said) for row in rows)} of {len(rows)}",
        *(f"{row.case.name}: {'told to be well' if row.verdict.first else 'not told to be well'}: "
          f"{' '.join(row.scan['found']['answer'])[:200]}" for row in rows if row.case.of == "nothing"),
        f"scans took {sum(row.scan['seconds'] for row in rows) / max(1, len(rows)):.0f} s on average",
    ]
    return "\n".join(said)


def good(rows: list[Row]) -> bool:
    """Whether the aim is reached."""
    causes = [row.verdict.first for row in rows if row.case.of != "nothing"]
    return sum(causes) >= AIM * len(causes) and all(row.verdict.first for row in rows if row.case.of == "nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=(), help="names of cases")
    parser.add_argument("--budget", type=float, default=60, help="seconds of a scan; 0 for none")
    parser.add_argument("--truth", type=float, default=60, help="seconds of train.py against fixed.py")
    parser.add_argument("--json", type=Path, help="where everything is written, after every case")
    parser.add_argument("--again", type=Path, help="--json of an earlier run, whose truths are taken")
    args = parser.parse_args()
    before = {one["name"]: one for one in json.loads(args.again.read_text())} if args.again else {}
    rows = []
    for case in cause_case.cases(args.only):
        rows.append(run(case, args.budget, args.truth, before.get(case.name)))
        print(rows[-1].words(), rows[-1].figures(), file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps([row.to_json() for row in rows], indent=1))
    print(tabulate([row.words() for row in rows], headers=WORDS))
    print("\n" + tabulate([row.figures() for row in rows], headers=FIGURES))
    print(f"\n{summary(rows)}")
    if not good(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
