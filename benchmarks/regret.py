"""How close is the plan of a scan to the best that trying everything would have found?

    python benchmarks/regret.py                        three workloads: a scan, then all combinations as processes of their own
    python benchmarks/regret.py --simulated 60         only made-up loops whose best stack is known

Real: every combination of the hand-made changes runs once as an ordinary process; the best six and the plan's run twice
more; the best of these and the plan then take turns, and their ratio with its interval is the regret, free of the luck by
which the best was chosen. Simulated: the experiment's own code against made-up loops of the given step time and noise, sixteen
arms, some of which interact.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from predicted_vs_realised import HERE, OPTIONS, paired, seconds_a_step
from tabulate import tabulate

from perfdoc.core import blocks as pairing
from perfdoc.core import stats
from perfdoc.core.blocks import Block
from perfdoc.core.treatment import Config, Level, config_from_id, config_id
from perfdoc.demo.make_images import make
from perfdoc.diagnosis.prediction import NORMAL
from perfdoc.inject.experiment.block_timer import BLOCK_SECONDS, SLOW_STEP
from perfdoc.inject.experiment.design import Factor
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult, ParityRequest, ProbeRequest

FACTORS = {
    "images": {"cpu_threads": ["1"], "dataloader_workers": ["1", "2"], "autocast": ["bf16"], "channels_last": ["on"]},
    "convolutions": {"cpu_threads": ["1"], "autocast": ["bf16"], "channels_last": ["on"],
                     "optimizer_implementation": ["foreach", "fused"]},
    "language_model": {"cpu_threads": ["1"], "autocast": ["bf16"], "matmul_precision": ["medium"],
                       "optimizer_implementation": ["foreach", "fused"]},
}
FINALISTS = 6


def cells(factors: dict[str, list[str]]) -> list[Config]:
    """Every combination of the levels, the original among them."""
    choices = [[None, *levels] for levels in factors.values()]
    return [
        {slug: level for slug, level in zip(factors, chosen, strict=True) if level is not None}
        for chosen in itertools.product(*choices)
    ]


def options(cell: Config) -> list[str]:
    return [option for slug, level in cell.items() for option in OPTIONS[slug](level)]


def real(workloads: list[str], budget: str, seconds: float, verify: float) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in workloads:
            factors = FACTORS[name]
            script, base = HERE / f"{name}.py", []
            if name == "images":
                images = Path(folder) / "images"
                make(images, each=100)
                base = ["--data", str(images)]
            scan = subprocess.run(
                [sys.executable, "-m", "perfdoc", "scan", "--json", "--budget", budget, "--only", ",".join(factors), "--output",
                 folder, str(script), *base], capture_output=True, text=True, check=True,
            )
            found = json.loads(scan.stdout)
            plan: Config = {}
            if found["plan"]:
                plan = dict(part.split("=", 1) for part in found["plan"]["arm"].split("+"))
            every = {config_id(cell): cell for cell in cells(factors)}
            times: dict[str, list[float]] = {arm: [] for arm in every}

            def measure(arms: list[str]) -> None:
                for arm in random.sample(arms, len(arms)):
                    times[arm].append(seconds_a_step(script, [*base, *options(every[arm])], seconds))  # noqa: B023

            measure(list(every))
            finalists = {*sorted(every, key=lambda arm: times[arm][0])[:FINALISTS], config_id(plan)}
            for _ in range(2):
                measure(list(finalists))
            best = min(finalists, key=lambda arm: statistics.fmean(times[arm]))
            original = statistics.fmean(times["control"])
            if best == config_id(plan):
                said = "the plan is the best found"
            else:
                mine, other = ([*base, *options(cell)] for cell in (plan, every[best]))
                ratio, low, high = paired(script, mine, other, verify).speedup
                said = f"{1 / ratio:.1%} [{1 / high:.1%}, {1 / low:.1%}] of the best"
            effect = found["plan"]["effect"] if found["plan"] else None
            rows.append((name, len(every), config_id(plan), f"{effect['speedup']:.2f}" if effect else "", best,
                         f"{original / statistics.fmean(times[best]):.2f}", said))
            print(rows[-1], file=sys.stderr, flush=True)
    print(tabulate(rows, headers=["workload", "cells", "plan", "predicted", "best found", "its speed-up", "the plan's speed"]))


def made_up() -> list[Factor]:
    def factor(slug: str, *levels: str, **more: object) -> Factor:
        return Factor(slug, tuple(Level(name, name) for name in levels), **more)  # type: ignore[arg-type]

    return [
        factor("autocast", "bf16", interacts=("channels_last",), numerics=True, share=0.6),
        factor("batch_size", "x2", "x4", role="trade_off"),
        factor("channels_last", "on", numerics=True, share=0.6),
        factor("checkpointing", "on", role="trade_off", share=0.6),
        factor("compute_ceiling", "on", role="ceiling", share=0.35),
        factor("cpu_threads", "1", interacts=("dataloader_workers",), numerics=True, share=0.6),
        factor("dataloader_workers", "1", "2", share=0.35),
        factor("inplace_activation", "on", numerics=True, share=0.2),
        factor("matmul_precision", "medium", numerics=True, share=0.6),
        factor("optimizer", "foreach", "fused", numerics=True, share=0.03),
    ]


def drawn_truth(rng: random.Random) -> dict[frozenset[str], float]:
    """Log speed-ups: a third of the changes matter, some only together."""
    def effect() -> float:
        return rng.gauss(0.0, 0.02) if rng.random() < 0.65 else rng.gauss(0.1, 0.25)

    truth = {
        frozenset([arm]): effect()
        for arm in ("autocast=bf16", "channels_last=on", "cpu_threads=1", "dataloader_workers=1", "dataloader_workers=2",
                    "matmul_precision=medium")
    }
    truth |= {
        frozenset([arm]): rng.gauss(0.01, 0.02) for arm in ("inplace_activation=on", "optimizer=foreach", "optimizer=fused")
    }
    truth |= {frozenset(["checkpointing=on"]): -0.2, frozenset(["compute_ceiling=on"]): 0.4}
    if rng.random() < 0.4:
        for workers in "12":
            truth[frozenset(["cpu_threads=1", f"dataloader_workers={workers}"])] = rng.gauss(0.2, 0.15)
    if rng.random() < 0.3:
        truth[frozenset(["autocast=bf16", "channels_last=on"])] = rng.gauss(0.1, 0.1)
    return truth


def speedup(truth: dict[frozenset[str], float], config: Config) -> float:
    parts = set(config_id(config).split("+"))
    return math.fsum(gain for needed, gain in truth.items() if needed <= parts)


def simulate(step: float, noise: float, budget: float, seed: int) -> tuple[float, float, bool | None, list[bool]]:
    """Log speed-up of the best stack, of the plan, whether the plan's interval holds the truth, and whether the estimates of
    changes that were tried in stacks only do."""
    rng = random.Random(seed)
    truth, factors = drawn_truth(rng), made_up()
    left, level, index = budget, 0.0, 0
    entered: set[str] = set()
    experiment = Experiment(factors, budget, lambda: left, seed=seed)
    steps, answer = experiment.run(), None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration:
            break
        answer = None
        if isinstance(request, ProbeRequest):
            left -= min(1.0, 8 * step) if request.each_round else 3 * step
        elif isinstance(request, ParityRequest):
            left -= request.seconds
        elif isinstance(request, BlockRequest):
            level = 0.95 * level + rng.gauss(0, 0.02)
            slow = rng.uniform(0.1, 0.5) if rng.random() < 0.03 else 0.0
            seconds = step * math.exp(level + rng.gauss(0, noise) + slow - speedup(truth, request.config))
            first = request.arm not in entered
            entered.add(request.arm)
            count = 2 if step > SLOW_STEP else max(3, math.ceil(BLOCK_SECONDS / step))
            warmup = 1 + first if step > SLOW_STEP else max(3 if first else 1, math.ceil((0.2 if first else 0.03) / step))
            left -= (count + warmup) * seconds
            answer = BlockResult(Block(
                0, index, request.arm, request.phase, count, count * seconds, [], [seconds] * warmup, 0.0, 0, 0))
            index += 1
    best = max(speedup(truth, cell) for cell in cells(
        {f.slug: [level.name for level in f.levels] for f in factors if f.planned}))
    estimated = []
    for name, found in experiment.combinations.estimates(experiment.plan).items():
        if len(experiment.arm_results.values(name)) < 2:
            ((slug, at),) = config_from_id(name).items()
            rest = {other: level for other, level in experiment.plan.items() if other != slug}
            off = found.center - speedup(truth, {**rest, slug: at}) + speedup(truth, rest)
            estimated.append(abs(off) <= NORMAL * found.deviation)
    values = experiment.arm_results.values(config_id(experiment.plan), confirm=True) if experiment.plan else []
    gained = speedup(truth, experiment.plan)
    if len(values) < 2:
        return best, gained, None, estimated
    shown = stats.interval(values, pairing.control_noise(experiment.arm_results.blocks))
    return best, gained, shown.low <= gained <= shown.high, estimated


def simulated(repeats: int) -> None:
    rows = []
    for step, noise, budget in ((0.02, 0.05, 120), (0.16, 0.03, 120), (0.16, 0.09, 120), (0.16, 0.09, 60), (0.4, 0.06, 120),
                                (1.0, 0.05, 120)):
        found = [simulate(step, noise, budget, seed) for seed in range(repeats)]
        worth = [entry for entry in found if entry[0] > 0.1]
        held = [entry[2] for entry in found if entry[2] is not None]
        rows.append((
            f"{1000 * step:.0f} ms", f"{noise:.0%}", f"{budget} s", len(worth),
            *(f"{math.exp(statistics.fmean(gains)):.2f}" for gains in ([e[0] for e in worth], [e[1] for e in worth])),
            f"{statistics.median(math.exp(entry[1] - entry[0]) for entry in worth):.1%}",
            f"{statistics.fmean(math.exp(entry[1] - entry[0]) >= 0.95 for entry in worth):.0%}", f"{sum(held)}/{len(held)}",
            f"{sum(sum(entry[3]) for entry in found)}/{sum(len(entry[3]) for entry in found)}",
        ))
    print(tabulate(rows, headers=["step", "noise of a block", "budget", "loops with more than 1.1x to find", "best (mean)",
                                  "plan (mean)", "plan of best (median)", "plans >= 95% of best", "interval holds",
                                  "estimates from stacks hold"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--simulated", type=int, default=0, metavar="LOOPS")
    parser.add_argument("--budget", default="120")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--verify", type=float, default=90, help="seconds for the plan against the best found")
    parser.add_argument("workloads", nargs="*", default=list(FACTORS))
    args = parser.parse_args()
    if args.simulated:
        simulated(args.simulated)
    else:
        real(args.workloads, args.budget, args.seconds, args.verify)
