"""Does the changed script run as much faster as the scan said?

For every workload: one scan of the original; then, for the plan and for the best single changes, original and hand-changed
script as ordinary processes that take turns. Printed: predicted ratio with its interval for another run (`perfdoc.prediction`),
realised ratio with its own, relative error, whether the predicted interval holds the realised ratio, and, as that is only known
to its own interval, whether the two agree (what was measured and what came of it cannot be told apart).

    python benchmarks/predicted_vs_realised.py [--budget 120] [--verify 90] [workload ...]

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
from pathlib import Path

from tabulate import tabulate

from perfdoc import capture as captures
from perfdoc import stats
from perfdoc.alternation import Alternation, Side
from perfdoc.demo.make_images import make
from perfdoc.finding import Effect
from perfdoc.rule import Evidence
from perfdoc.treatment import config_from_id

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--patch", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for the scripts, captures and records of --patch")
    parser.add_argument("--verify", default="90", help="seconds of measuring what it came to")
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--budget", default="120")
    parser.add_argument("--singles", type=int, default=1, help="single changes checked beside the plan, largest effect first")
    args = parser.parse_args()
    if args.patch:
        patches(args.workloads, args.budget, args.verify, args.keep)
        return
    rows, errors, inside, agreed = [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        for name in args.workloads:
            script, base = HERE / f"{name}.py", []
            if name == "images":
                make(images, each=100)
                base = ["--data", str(images)]
            scan = subprocess.run(
                [sys.executable, "-m", "perfdoc", "scan", "--json", "--budget", args.budget, "--output", folder,
                 str(script), *base],
                capture_output=True, text=True, check=False,
            )
            if scan.returncode:
                raise SystemExit(f"{name}: the scan failed\n{scan.stderr}")
            found = json.loads(scan.stdout)
            seen = Evidence(captures.read(max(Path(folder).rglob("capture.json"), key=lambda f: f.stat().st_mtime).parent))
            checks = []
            if found["plan"] and found["plan"]["effect"]:
                checks.append(("plan", found["plan"]["arm"], found["plan"]["epoch_effect"] or found["plan"]["effect"]))
            # What trades something else for time (larger batches) is no change that a script can be compared with itself by.
            singles = [a for a in found["arms"] if a["verdict"] in ("helps", "hurts") and "+" not in a["arm"]
                       and set(config_from_id(a["arm"])) <= set(OPTIONS)]
            singles.sort(key=lambda a: -abs(math.log(a["effect"]["speedup"])))
            plan_arm = (found["plan"] or {}).get("arm")
            checks += [(a["verdict"], a["arm"], a["effect"]) for a in singles[: args.singles] if a["arm"] != plan_arm]
            if not checks:
                rows.append((name, "nothing settled", found["headline"][:60], *[""] * 5))
            for kind, arm, effect in checks:
                change = [o for slug, level in config_from_id(arm).items() for o in OPTIONS[slug](level)]
                shown = paired(script, base, [*base, *change], float(args.verify))
                ratio, low, high = shown.speedup
                said = seen.expected(arm, Effect(effect["speedup"], effect["low"], effect["high"], effect["pairs"]))
                error = said.speedup / ratio - 1
                errors.append(abs(error))
                held = said.low <= ratio <= said.high
                # Two independent estimates differ when their difference lies beyond their half-widths taken together.
                halves = [math.log(e / c) for e, c in ((effect["high"], effect["speedup"]), (high, ratio))]
                agree = abs(math.log(effect["speedup"] / ratio)) <= math.hypot(*halves)
                inside, agreed = inside + held, agreed + agree
                rows.append((name, kind, arm, f"{said.speedup:.2f} [{said.low:.2f}, {said.high:.2f}]",
                             f"{ratio:.2f} [{low:.2f}, {high:.2f}]", f"{error:+.1%}", "yes" if held else "no",
                             "yes" if agree else "no"))
                print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=["workload", "what", "change", "predicted", "realised", "error", "inside", "agree"]))
    if errors:
        print(f"\nmedian error {statistics.median(errors):.1%}, worst {max(errors):.1%}, "
              f"90th percentile {sorted(errors)[math.ceil(0.9 * len(errors)) - 1]:.1%}, interval holds the realised value in "
              f"{inside} of {len(errors)}, prediction and realised value agree in {agreed}")


if __name__ == "__main__":
    main()
