"""What a faster loader means for the step: predicted from the loader alone, measured live, and realised in changed scripts.

    python benchmarks/loader_to_step.py [--workers 1,2] [--budget 100] [--verify 90]

`workloads/images.py`, with one thread for the model, is benched and scanned. Two predictions come from `bench-loader`, where no
model runs: what a step takes beside a stand-in that computes as long as the model does; and a formula, in which a step without
workers is loading and computing one after the other, and with n workers the longest of three: computing; loading with n
workers; the CPU time of both shared out over the cores. The turn of an epoch, when workers are filled anew, is added as it was
timed. The scan measures the same change live, inside of an epoch, and is given the same turn; processes with 0 and n workers
that take turns are what it came to, epochs and all.
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
from pathlib import Path

from predicted_vs_realised import HERE, paired
from tabulate import tabulate

from perfdoc.demo.make_images import make

EACH, BATCH = 100, 8
STEPS = 4 * EACH // BATCH
"""Steps an epoch of the workload: four classes, batches of eight."""


def perfdoc(folder: str, *arguments: str) -> dict:
    ran = subprocess.run([sys.executable, "-m", "perfdoc", *arguments], capture_output=True, text=True, check=False, cwd=folder)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--verify", type=float, default=90, help="seconds of the changed script against the original")
    parser.add_argument("--budget", default="100")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        make(images, each=EACH)
        script, base = HERE / "images.py", ["--data", str(images), "--threads", "1"]
        command = [str(script), *base]
        bench = perfdoc(folder, "bench-loader", "--json", "--no-decoders", "--workers", f"0,{args.workers}", "--budget",
                        args.budget, *command)
        by_count = {row["workers"]: row for row in bench["rows"]}
        compute = 1 / bench["batches_per_second_needed"]
        loading = {n: 1 / row["batches_per_second"] for n, row in by_count.items()}
        cpu = {n: row["cpu_cores"] * loading[n] for n, row in by_count.items()}
        turn = statistics.median(bench["epoch_turn"].get("persistent", [0.0]))
        scan = perfdoc(folder, "scan", "--json", "--only", "dataloader_workers", "--budget", args.budget, *command)
        live = {arm["arm"]: arm["effect"] for arm in scan["arms"] if arm["effect"]}
        for n in map(int, args.workers.split(",")):
            before = compute + loading[0]
            steady = max(compute, loading[n], (compute + cpu[n]) / cores)

            def epoch(step: float, before: float = before) -> float:
                """Speed-up over a whole epoch: its steps, and the turn in place of the first one's wait."""
                return before * STEPS / (step * (STEPS - 1) + max(step, turn))

            formula = epoch(steady)
            found = by_count[n]["speedup_beside_step"]
            beside = epoch(before / found[0]) if found else math.nan
            shown = paired(script, base, [*base, "--workers", str(n)], args.verify)
            ratio, low, high = shown.speedup
            effect = live.get(f"dataloader_workers={n}")
            whole = [epoch(before / effect[key]) for key in ("speedup", "low", "high")] if effect else []
            measured = f"{whole[0]:.2f} [{whole[1]:.2f}, {whole[2]:.2f}]" if whole else "not reached"
            errors = [f"{value / ratio - 1:+.1%}" for value in (formula, beside, *whole[:1])]
            rows.append((n, f"{formula:.2f}", f"{beside:.2f}", measured, f"{ratio:.2f} [{low:.2f}, {high:.2f}]", *errors))
            print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=["workers", "by the formula", "beside a stand-in", "live", "changed script", "error: formula",
                                  "stand-in", "live"]))


if __name__ == "__main__":
    main()
