"""Does the gate stop slowdowns, and only those? A/A gates under varying load, and planted slowdowns of 5%, 10% and 20%.

    python benchmarks/gate_truth.py [--none 20] [--planted 20] [--step 0.1] [--load 1]

Every gate is `perfdoc gate --base HEAD~1 -- python train.py` in a repository of its own with two commits; the second one does
nothing, or makes the step slower by a known share of work. Beside it, from the same runs, stands a plain gate: a regression is
where the mean of the head's blocks is more than 5% above that of the base's. While a gate runs, other processes (--load)
take between none and all of a core each, for stretches of random length. The script computes with one thread: one such process
on a machine of two cores may leave it a core for itself, two cannot.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tabulate import tabulate

SCRIPT = """
import time
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(0)
WORK = {work}
a = torch.randn(256, 256)
model = nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = DataLoader(TensorDataset(torch.randn(4096, 64)), batch_size=32)
while True:
    for (x,) in loader:
        loss = model(x).pow(2).mean()
        for _ in range(WORK):
            a = torch.tanh(a @ a)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
LOAD = "import time\nend = time.time() + {busy}\nwhile time.time() < end: pass"


def repository(folder: Path, work: int, slowdown: float) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.email=a@example.org", "-c", "user.name=a", *arguments], cwd=folder, check=True,
                       capture_output=True)

    git("init", "-q")
    for commit, share in enumerate((0.0, slowdown)):
        (folder / "train.py").write_text(SCRIPT.format(work=round(work * (1 + share))))
        (folder / "note.txt").write_text(str(commit))
        git("add", ".")
        git("commit", "-qm", f"commit {commit}")


class Load(threading.Thread):
    """Another process that takes between none and all of a core, for stretches of random length."""

    def __init__(self, seed: int) -> None:
        super().__init__(daemon=True)
        self.rng = random.Random(seed)
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            if self.rng.random() < 0.5:
                time.sleep(self.rng.uniform(0.2, 6))
            else:
                subprocess.run([sys.executable, "-c", LOAD.format(busy=self.rng.uniform(0.2, 6))], check=False)


def seconds_of(work: int) -> float:
    """Seconds of so many products on this machine now."""
    code = (f"import torch, time; torch.set_num_threads(1); a = torch.randn(256, 256); s = time.time()\n"
            f"for _ in range({work}): a = torch.tanh(a @ a)\nprint(time.time() - s)")
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--none", type=int, default=20)
    parser.add_argument("--planted", type=int, default=20)
    parser.add_argument("--slowdowns", default="0.05,0.1,0.2")
    parser.add_argument("--step", type=float, default=0.1, help="seconds")
    parser.add_argument("--budget", default="90")
    parser.add_argument("--load", type=int, default=1, help="other processes")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="append every gate's answer here")
    args = parser.parse_args()
    work = max(100, round(1000 * args.step / min(seconds_of(1000) for _ in range(3))))  # 1% is a whole product
    cases = [(0.0, args.none), *((float(s), args.planted) for s in args.slowdowns.split(","))]
    cases = [case for case in cases if case[1]]
    rows = []
    for slowdown, count in cases:
        found: Counter[str] = Counter()
        plain: Counter[str] = Counter()
        times, ratios = [], []
        for number in range(count):
            with tempfile.TemporaryDirectory() as folder:
                repository(Path(folder), work, slowdown)
                loads = [Load(1000 * other + number) for other in range(args.load)]
                for load in loads:
                    load.start()
                began = time.time()
                ran = subprocess.run(
                    [sys.executable, "-m", "perfdoc", "gate", "--base", "HEAD~1", "--budget", args.budget, "--json", "--",
                     sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, check=False,
                )
                took = time.time() - began
                for load in loads:
                    load.stopped = True
                for load in loads:
                    load.join()
                if ran.returncode not in (0, 1, 3):
                    raise SystemExit(f"exit code {ran.returncode}\n{ran.stderr}")
                answer = json.loads(ran.stdout)
                decision = next(c["decision"] for c in answer["checks"] if c["name"] == "step time")
                found[decision] += 1
                means = {name: statistics.fmean(paces) for name, paces in answer["seconds_a_step"].items()}
                plain["regression" if means["head"] > 1.05 * means["base"] else "fine"] += 1
                times.append(took - answer["seconds_to_start"])
                if args.raw:
                    with args.raw.open("a") as f:
                        f.write(json.dumps({"planted": slowdown, "took": took, **answer}) + "\n")
                ratios.append(answer["ratio"])
                print(f"{slowdown:.0%} {decision} {answer['ratio']['ratio']:.3f} [{answer['ratio']['low']:.3f}, "
                      f"{answer['ratio']['high']:.3f}] {times[-1]:.0f} s", file=sys.stderr, flush=True)
        truth = round(work * (1 + slowdown)) / work
        held = sum(r["low"] <= truth <= r["high"] for r in ratios)
        rows.append((f"{truth - 1:.1%}", count, found["regression"], found["undecided"], found["fine"],
                     f"{plain['regression']}", f"{held}/{count}", f"{statistics.median(times):.0f} s", f"{max(times):.0f} s"))
        print(tabulate([rows[-1]], tablefmt="plain"), file=sys.stderr, flush=True)
    print(tabulate(rows, headers=["planted", "gates", "regression", "undecided", "fine", "plain gate: regression",
                                  "interval holds it", "time (median)", "longest"]))


if __name__ == "__main__":
    main()
