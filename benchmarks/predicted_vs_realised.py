"""Does the changed script run as much faster as the scan said?

For every workload: one scan of the original; then, for the plan and for the best single changes, original and hand-changed
script as ordinary processes that take turns. Printed: predicted ratio with its interval for another run
(`diagnosis/prediction`), realised ratio with its own, relative error, whether the predicted interval holds the realised
ratio, and, as that is only known to its own interval, whether the two agree (what was measured and what came of it cannot be
told apart).

    python benchmarks/predicted_vs_realised.py [--budget 120] [--verify 90] [--again] [workload ...]

With --again every change is realised once more after all workloads, half an hour later or more: what the realised ratio does by
itself. Errors are then told against the first time and against the mean of both.

With --patch the plan is realised by its own patch: `perfdoc scan`, `perfdoc apply`, the changed script runs, `perfdoc apply
--reverse`, and `perfdoc verify` measures original and patched in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from perfdoc.capture import document as captures
from perfdoc.compare.paired_runs import Alternation, Side
from perfdoc.core import stats
from perfdoc.core.finding import Effect
from perfdoc.core.treatment import config_from_id
from perfdoc.demo.make_images import make
from perfdoc.diagnosis.evidence import Evidence

HERE = Path(__file__).parent / "workloads"
WORKLOADS = (
    "images", "convolutions", "gan", "language_model", "accumulation", "hf_trainer", "lightning_trainer",
    "recurrent", "segmentation", "vision_transformer", "tabular", "diffusion",
)
OPTIONS = {
    "dataloader_workers": lambda level: ["--workers", level],
    "cpu_threads": lambda level: ["--threads", level],
    "image_decoder": lambda level: ["--decoder", level],
    "autocast": lambda level: ["--bf16"],
    "channels_last": lambda level: ["--channels-last"],
    "matmul_precision": lambda level: ["--matmul-precision", level],
    "optimizer_implementation": lambda level: ["--optimizer", level],
    "compiled_model": lambda level: ["--compile"],
}


def seconds_a_step(script: Path, arguments: list[str], seconds: float) -> float:
    ran = subprocess.run([sys.executable, str(script), *arguments, "--seconds", str(seconds)],
                         capture_output=True, text=True, check=True)
    return float(ran.stdout.split("seconds_a_step")[1].split()[0])


def paired(script: Path, one: list[str], other: list[str], budget: float) -> stats.Interval:
    """Log speed-up of ``other`` over ``one``: both as ordinary processes that take turns, as `perfdoc verify` runs them."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            Side(name, [sys.executable, str(script), *arguments, "--seconds", "100000"], HERE, HERE)
            for name, arguments in (("one", one), ("other", other))
        )
        ratio = Alternation(first, second, Path(folder), budget).run(lambda found: found.bounds()[1] / found.ratio < 1.015)
    low, high = ratio.bounds()
    return stats.Interval(-ratio.center, -math.log(high), -math.log(low), ratio.rounds)


def perfdoc(folder: Path, *arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "perfdoc", *arguments], capture_output=True, text=True, check=False, cwd=folder)
    if ran.returncode:
        raise SystemExit(f"perfdoc {' '.join(arguments)} failed\n{ran.stdout}\n{ran.stderr}")
    return ran.stdout


def through_the_patch(name: str, folder: Path, base: list[str], budget: str, verify: str) -> tuple[str, ...]:
    """Scan, apply, run the changed script, take it back, verify; a row of the table."""
    work = folder / f"{name}-script"
    work.mkdir()
    for script in (f"{name}.py", "common.py"):
        (work / script).write_text((HERE / script).read_text())
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    command = [f"{name}.py", *base, "--seconds", "100000"]
    found = json.loads(perfdoc(work, "scan", "--json", "--budget", budget, *command))
    if not found["plan"] or not found["plan"]["effect"]:
        return (name, "no plan", found["headline"][:70])
    left = ", ".join(s["slug"] for s in found["patch"]["snippets"])
    if not found["patch"]["edited"]:
        return (name, found["plan"]["arm"], f"nothing of it could be edited: {left}")
    perfdoc(work, "apply")
    subprocess.run([sys.executable, f"{name}.py", *base, "--seconds", "2"], cwd=work, check=True, capture_output=True)
    perfdoc(work, "apply", "--reverse")
    result = json.loads(perfdoc(work, "verify", "--json", "--budget", verify))
    said, real, measured = result["predicted"], result["realised"], result["measured"]
    arm = found["plan"]["arm"] + (f" (without {left})" if left else "")
    if said is None:
        return (name, arm, "not measured on its own", f"{real['speedup']:.2f} [{real['low']:.2f}, {real['high']:.2f}]")
    return (name, arm, f"{said['speedup']:.2f} [{said['low']:.2f}, {said['high']:.2f}]",
            f"[{measured['low']:.2f}, {measured['high']:.2f}]",
            f"{real['speedup']:.2f} [{real['low']:.2f}, {real['high']:.2f}]", f"{result['error']:+.1%}",
            "yes" if result["inside"] else "no", "{in_scan:.3g} s, {now:.3g} s".format(**result["original_step"]))


def patches(workloads: list[str], budget: str, verify: str, keep: Path | None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() if keep is None else contextlib.nullcontext(keep) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        images = Path(folder) / "images"
        for name in workloads:
            if name == "images":
                make(images, each=100)
            base = ["--data", str(images)] if name == "images" else []
            rows.append(through_the_patch(name, Path(folder), base, budget, verify))
            print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=["workload", "plan", "predicted", "in the scan", "realised", "error", "inside",
                                  "original's step in the scan, in verify"]))
    errors = sorted(abs(float(row[5].rstrip("%"))) for row in rows if len(row) == 8)
    if errors:
        held = sum(row[6] == "yes" for row in rows if len(row) == 8)
        print(f"\nmedian error {statistics.median(errors):.1f}%, worst {errors[-1]:.1f}%, "
              f"90th percentile {errors[math.ceil(0.9 * len(errors)) - 1]:.1f}%, "
              f"interval holds the realised value in {held} of {len(errors)}")


@dataclass
class Check:
    """One change of one workload: what was predicted of it, and every time it was realised."""

    workload: str
    kind: str
    arm: str
    measured: dict[str, Any]
    said: Effect
    base: list[str]
    realised: list[stats.Interval] = field(default_factory=list)

    def realise(self, verify: str) -> None:
        change = [o for slug, level in config_from_id(self.arm).items() for o in OPTIONS[slug](level)]
        self.realised.append(paired(HERE / f"{self.workload}.py", self.base, [*self.base, *change], float(verify)))

    @property
    def ratio(self) -> float:
        """What it came to: the geometric mean of the times it was realised."""
        return math.exp(statistics.fmean(shown.center for shown in self.realised))

    @property
    def error(self) -> float:
        return self.said.speedup / self.ratio - 1

    @property
    def inside(self) -> bool:
        return self.said.low <= self.ratio <= self.said.high

    @property
    def agree(self) -> bool:
        """Two independent estimates differ when their difference lies beyond their half-widths taken together."""
        found = self.measured
        real = math.hypot(*(shown.high - shown.center for shown in self.realised)) / len(self.realised)
        together = math.hypot(math.log(found["high"] / found["speedup"]), real)
        return abs(math.log(found["speedup"] / self.ratio)) <= together

    def row(self) -> tuple[str, ...]:
        times = ["{:.2f} [{:.2f}, {:.2f}]".format(*shown.speedup) for shown in self.realised]
        return (self.workload, self.kind, self.arm, f"{self.said.speedup:.2f} [{self.said.low:.2f}, {self.said.high:.2f}]",
                *times, f"{self.error:+.1%}", "yes" if self.inside else "no", "yes" if self.agree else "no")


def summary(checks: list[Check]) -> str:
    errors = sorted(abs(check.error) for check in checks)
    return (f"{len(checks)} changes: median error {statistics.median(errors):.1%}, worst {errors[-1]:.1%}, 90th percentile "
            f"{errors[math.ceil(0.9 * len(errors)) - 1]:.1%}, interval holds the realised value in "
            f"{sum(check.inside for check in checks)} of {len(checks)}, prediction and realised value agree in "
            f"{sum(check.agree for check in checks)}")


def between_times(checks: list[Check]) -> str:
    """How far the same change is from itself, realised at another time: as far as a scan without any error would be from it."""
    apart = sorted(abs(math.expm1(check.realised[1].center - check.realised[0].center)) for check in checks)
    return (f"the same change realised twice: median difference {statistics.median(apart):.1%}, worst {apart[-1]:.1%}, "
            f"90th percentile {apart[math.ceil(0.9 * len(apart)) - 1]:.1%}")


def scanned(name: str, base: list[str], budget: str, folder: Path, singles: int) -> list[Check]:
    """Scan a workload; what is to be realised of what the scan said."""
    scan = subprocess.run(
        [sys.executable, "-m", "perfdoc", "scan", "--json", "--budget", budget, "--output", str(folder),
         str(HERE / f"{name}.py"), *base],
        capture_output=True, text=True, check=False,
    )
    if scan.returncode:
        raise SystemExit(f"{name}: the scan failed\n{scan.stderr}")
    found = json.loads(scan.stdout)
    seen = Evidence(captures.read(max(folder.rglob("capture.json"), key=lambda f: f.stat().st_mtime).parent))
    plan = found["plan"] if found["plan"] and found["plan"]["effect"] else None
    arms = [("plan", plan["arm"], plan["epoch_effect"] or plan["effect"])] if plan else []
    # What trades something else for time (larger batches) is no change that a script can be compared with itself by.
    alone = [a for a in found["arms"] if a["verdict"] in ("helps", "hurts") and "+" not in a["arm"]
             and set(config_from_id(a["arm"])) <= set(OPTIONS)]
    alone.sort(key=lambda a: -abs(math.log(a["effect"]["speedup"])))
    arms += [(a["verdict"], a["arm"], a["effect"]) for a in alone[:singles] if plan is None or a["arm"] != plan["arm"]]
    if not arms:
        print(f"{name}: nothing settled: {found['headline']}")
    return [
        Check(name, kind, arm, effect,
              seen.expected(arm, Effect(effect["speedup"], effect["low"], effect["high"], effect["pairs"])), base)
        for kind, arm, effect in arms
    ]


def by_hand(workloads: list[str], budget: str, verify: str, singles: int, again: bool) -> None:
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        for name in workloads:
            if name == "images":
                make(images, each=100)
            for check in scanned(name, ["--data", str(images)] if name == "images" else [], budget, Path(folder), singles):
                check.realise(verify)
                checks.append(check)
                print(check.row(), file=sys.stderr, flush=True)
        once = summary(checks) if checks else ""
        for check in checks if again else ():
            check.realise(verify)
            print(check.row(), file=sys.stderr, flush=True)
    times = ["realised", "again"] if again else ["realised"]
    print(tabulate([check.row() for check in checks],
                   headers=["workload", "what", "change", "predicted", *times, "error", "inside", "agree"]))
    if checks:
        print(f"\nrealised once: {once}")
    if checks and again:
        print(f"the mean of both times: {summary(checks)}\n{between_times(checks)}")
    plans = [check for check in checks if check.kind == "plan"]
    if plans:
        print(f"the plans among them: {summary(plans)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patch", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for the scripts, captures and records of --patch")
    parser.add_argument("--verify", default="90", help="seconds of measuring what it came to")
    parser.add_argument("--again", action="store_true",
                        help="without --patch: realise every change once more, after all else")
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--budget", default="120")
    parser.add_argument("--singles", type=int, default=1, help="single changes checked beside the plan, largest effect first")
    args = parser.parse_args()
    if args.patch:
        patches(args.workloads, args.budget, args.verify, args.keep)
    else:
        by_hand(args.workloads, args.budget, args.verify, args.singles, args.again)


if __name__ == "__main__":
    main()
