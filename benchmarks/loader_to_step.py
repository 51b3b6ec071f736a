"""What a faster loader means for the step: predicted from the loader alone, measured live, and realised in changed scripts.

    python benchmarks/loader_to_step.py [--workers 1,2] [--rounds 4] [--budget 40] [--verify 40]

`workloads/images.py`, with one thread for the model, is benched and scanned. Two predictions come from `bench-loader`, where no
model runs: what a step takes beside a stand-in that computes as long as the model does; and a formula, in which a step without
workers is loading and computing one after the other, and with n workers the longest of three: computing; loading with n
workers; the CPU time of both shared out over the cores. The turn of an epoch, when workers are filled anew, is added as it was
timed. The scan measures the same change live, inside of an epoch, and is given the same turn; processes with 0 and n workers
that take turns are what it came to, epochs and all.

A shared machine gives two workers 1.5x in one quarter of an hour and 1.8x in the next: predictions and what came of them are
measured in rounds, each compared with its neighbour in time, and the error is the mean over the rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from predicted_vs_realised import HERE, paired
from tabulate import tabulate

from perfdoc.core import stats
from perfdoc.demo.make_images import make

EACH, BATCH = 100, 8
STEPS = 4 * EACH // BATCH
"""Steps an epoch of the workload: four classes, batches of eight."""


def perfdoc(folder: str, *arguments: str) -> dict:
    ran = subprocess.run([sys.executable, "-m", "perfdoc", *arguments], capture_output=True, text=True, check=False, cwd=folder)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout)


@dataclass
class Found:
    """One round's speed-ups over whole epochs, for one count of workers."""

    formula: float
    beside: float
    live: float
    realised: float
    low: float
    high: float

    @property
    def errors(self) -> list[float]:
        """Log of predicted over realised."""
        return [math.log(value / self.realised) for value in (self.formula, self.beside, self.live)]


def predicted(folder: str, command: list[str], counts: list[int], budget: str) -> dict[int, tuple[float, float, float]]:
    """Speed-up over a whole epoch by count: by the formula, beside a stand-in, live; nan where it was not reached."""
    cores = len(os.sched_getaffinity(0))
    asked = ",".join(map(str, [0, *counts]))
    bench = perfdoc(folder, "bench-loader", "--json", "--no-decoders", "--workers", asked, "--budget", budget, *command)
    scan = perfdoc(folder, "scan", "--json", "--only", "dataloader_workers", "--budget", budget, *command)
    live = {arm["arm"]: arm["effect"] for arm in scan["arms"] if arm["effect"]}
    by_count = {row["workers"]: row for row in bench["rows"]}
    compute = 1 / bench["batches_per_second_needed"]
    loading = {n: 1 / row["batches_per_second"] for n, row in by_count.items()}
    cpu = {n: row["cpu_cores"] * loading[n] for n, row in by_count.items()}
    turn = statistics.median(bench["epoch_turn"].get("persistent", [0.0]))
    before = compute + loading[0]

    def epoch(speedup: float) -> float:
        """Over a whole epoch: its steps, and the turn in place of the first one's wait."""
        step = before / speedup
        return before * STEPS / (step * (STEPS - 1) + max(step, turn))

    found: dict[int, tuple[float, float, float]] = {}
    for n in counts:
        steady = max(compute, loading[n], (compute + cpu[n]) / cores)
        beside, effect = by_count[n]["speedup_beside_step"], live.get(f"dataloader_workers={n}")
        found[n] = (
            epoch(before / steady), epoch(beside[0] if beside else math.nan), epoch(effect["speedup"] if effect else math.nan)
        )
    return found


def told(errors: list[float]) -> str:
    """Mean error over the rounds, with the interval of Student's t."""
    if len(errors) < 2:
        return f"{math.expm1(errors[0]):+.1%}"
    center = statistics.fmean(errors)
    half = stats.t_critical(0.05, len(errors) - 1) * statistics.stdev(errors) / math.sqrt(len(errors))
    return f"{math.expm1(center):+.1%} [{math.expm1(center - half):+.1%}, {math.expm1(center + half):+.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--verify", type=float, default=40, help="seconds a round of the changed script against the original")
    parser.add_argument("--budget", default="40")
    args = parser.parse_args()
    counts = [int(n) for n in args.workers.split(",")]
    rounds: dict[int, list[Found]] = {n: [] for n in counts}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        make(images, each=EACH)
        script, base = HERE / "images.py", ["--data", str(images), "--threads", "1"]
        for _ in range(args.rounds):
            for n, speedups in predicted(folder, [str(script), *base], counts, args.budget).items():
                shown = paired(script, base, [*base, "--workers", str(n)], args.verify)
                rounds[n].append(Found(*speedups, *shown.speedup))
                print(n, rounds[n][-1], file=sys.stderr, flush=True)
    kinds = "formula", "beside", "live"
    rows = [
        (n, *(f"{statistics.geometric_mean(getattr(one, kind) for one in found):.2f}" for kind in kinds),
         ", ".join(f"{one.realised:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in found),
         *(told([one.errors[kind] for one in found]) for kind in range(3)))
        for n, found in rounds.items()
    ]
    print(tabulate(rows, headers=["workers", "by the formula", "beside a stand-in", "live", "changed script, by round",
                                  "error: formula", "stand-in", "live"]))


if __name__ == "__main__":
    main()
