"""How often does a scan claim what is not there, find what is, and does its interval hold the truth?

    python benchmarks/false_alarms.py                 simulated experiments only (about six minutes)
    python benchmarks/false_alarms.py --real 20       and real scans of treatments that do nothing, beside a busy process

The simulated experiments run the very code that runs in a user's loop; only the blocks are made up: log-normal noise, a
drifting level, and stalls (a share of blocks 10-80% slower). Besides whole experiments two parts are looked at alone: the
interval of the confirm phase, whose pairs share control blocks, under several kinds of noise, and single stalled steps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tabulate import tabulate

from perfdoc.core import blocks as pairing
from perfdoc.core import stats
from perfdoc.core.blocks import Block
from perfdoc.core.treatment import Level, config_from_id
from perfdoc.inject.experiment.design import Factor
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.requests import BlockRequest, BlockResult

BLOCK = 0.3
"""Simulated seconds a block takes, warm-up included."""


@dataclass
class Noise:
    sigma: float
    stalls: float
    drift: float = 0.01


@dataclass
class Truth:
    """Log speed-up of each level of the one simulated treatment."""

    effects: dict[str, float]


def simulate(truth: Truth, noise: Noise, budget: float, seed: int) -> Experiment:
    """One whole experiment against a made-up loop."""
    rng = random.Random(seed)
    left = budget
    level = 0.0
    factor = Factor("x", tuple(Level(name, name) for name in truth.effects))
    experiment = Experiment([factor], budget, lambda: left, seed=seed)
    generator = experiment.run()
    result, index = None, 0
    while True:
        try:
            request = generator.send(result)
        except StopIteration:
            return experiment
        result = None
        if not isinstance(request, BlockRequest):
            continue
        level = 0.97 * level + rng.gauss(0, noise.drift)
        value = level + rng.gauss(0, noise.sigma)
        if rng.random() < noise.stalls:
            value += rng.uniform(0.1, 0.6)
        value -= sum(truth.effects[name] for name in config_from_id(request.arm).values()) if "=" in request.arm else 0.0
        seconds = 0.1 * math.exp(value)
        left -= 3 * seconds
        result = BlockResult(Block(0, index, request.arm, request.phase, 2, 2 * seconds, [], [seconds], 0.0, 0, 0))
        index += 1


def simulated(repeats: int) -> None:
    rows = []
    for noise in (Noise(0.01, 0.0), Noise(0.03, 0.03), Noise(0.05, 0.05), Noise(0.03, 0.10, 0.03)):
        for effect in (0.0, 0.02, 0.10, -0.10):
            counts: Counter[str] = Counter()
            held = total = 0
            for seed in range(repeats):
                log = math.log1p(effect)
                experiment = simulate(Truth({"real": log, "null1": 0.0, "null2": 0.0, "null3": 0.0}), noise, 120.0, seed)
                control = pairing.control_noise(experiment.arm_results.blocks)
                for name, true in (("real", log), ("null1", 0.0), ("null2", 0.0), ("null3", 0.0)):
                    values = experiment.arm_results.values(f"x={name}")
                    if len(values) < stats.LOOKS[0]:
                        continue
                    known = experiment.arm_results
                    judged = stats.keep(known.verdicts.get(f"x={name}"), values, 0.02, 4, control, known.overlap(f"x={name}"))
                    shown = stats.interval(values, control, overlap=known.overlap(f"x={name}"))
                    total += 1
                    held += shown.low <= true <= shown.high
                    counts[f"{'real' if name == 'real' else 'null'} {judged}"] += 1
            nulls = sum(n for key, n in counts.items() if key.startswith("null"))
            claimed = counts["null helps"] + counts["null hurts"]
            right = "real hurts" if effect < 0 else "real helps"
            rows.append((
                f"{noise.sigma:.0%}, {noise.stalls:.0%} stalls, drift {noise.drift:.0%}", f"{effect:+.0%}", repeats,
                f"{claimed}/{nulls} = {claimed / nulls:.2%}",
                "" if not effect else f"{counts[right] / repeats:.1%}", f"{held / total:.1%}",
                f"{counts['null no difference'] / nulls:.0%}",
            ))
    print(tabulate(rows, headers=["noise of a block", "true effect", "experiments", "claimed where nothing is",
                                  "found", "95% interval holds the truth", "nulls settled"]))


NOISES = ("white", "drift", "stalls", "AR(1) 0.5", "AR(1) 0.9", "AR(1) -0.3")
PHASES = {"c p c p c": ["p=1", "control"], "c p q c q p c": ["p=1", "q=1", "control"]}
LEVEL = 0.03
"""Standard deviation of the noise of a block, in log units."""


def noises(kind: str, rng: random.Random) -> Iterator[float]:
    """Log seconds of one block after the other."""
    level = last = 0.0
    while True:
        new = rng.gauss(0, LEVEL)
        if kind == "drift":  # a machine that wanders and grows slower
            level += rng.gauss(0, LEVEL / 2) + 0.002
        elif kind == "stalls":
            level = rng.uniform(0.1, 0.6) if rng.random() < 0.1 else 0.0
        elif kind.startswith("AR(1)"):
            new += float(kind.split()[1]) * last
            last = new
        yield level + new


def phase(order: list[str], rounds: int, kind: str, rng: random.Random) -> list[Block]:
    """Blocks of a confirm phase: after a control, so many rounds of arms (in random order) and a control."""
    arms = ["control"]
    for _ in range(rounds):
        arms += [*rng.sample(order[:-1], len(order) - 1), order[-1]]
    gain = {"p=1": 0.1}
    return [Block(0, i, arm, pairing.CONFIRM_PHASE, 2, 0.2 * math.exp(value - gain.get(arm, 0.0)), [], [], 0.0, 0, 0)
            for i, (arm, value) in enumerate(zip(arms, noises(kind, rng), strict=False))]


def confirmed(repeats: int) -> None:
    """Whether the interval of the confirm phase holds the truth, with and without knowing that pairs share controls."""
    rows = []
    for words, order in PHASES.items():
        for kind in NOISES:
            for pairs in (4, 8, 16, 32):
                rng = random.Random(pairs)
                held: Counter[str] = Counter()
                for _ in range(repeats):
                    blocks = phase(order, pairs, kind, rng)
                    found, noise = pairing.log_speedups(blocks), pairing.control_noise(blocks)
                    values = pairing.arm_values(found, "p=1", confirm=True)
                    shared = pairing.overlap(found, "p=1", confirm=True)
                    for name, overlap, error in (
                        ("shown", shared, 0.05), ("plain", shared, 0.05 * stats.DISPLAY_LOOKS),
                        ("as if alone", stats.NO_OVERLAP, 0.05 * stats.DISPLAY_LOOKS),
                    ):
                        shown = stats.interval(values, noise, error, overlap)
                        held[name] += shown.low <= 0.1 <= shown.high
                shares = (f"{held[name] / repeats:.1%}" for name in ("shown", "plain", "as if alone"))
                rows.append((words, kind, pairs, *shares))
    print(tabulate(rows, headers=["confirm phase", "noise", "pairs", "95% interval as shown holds the truth",
                                  "not widened for peeking", "nor for shared controls"]))


def stalled(repeats: int) -> None:
    """The mean log speed-up of an arm without effect, where single steps of both sides stall: it has to be none."""
    rows = []
    for share, times in ((0.01, 3.0), (0.01, 10.0), (0.03, 3.0), (0.03, 10.0)):
        for count, pairs in ((2, 1), (2, 3), (2, 8), (3, 2), (4, 1), (4, 4), (8, 1), (8, 4)):
            rng, means = random.Random(1), []
            for _ in range(repeats):
                blocks = []
                for i, arm in enumerate([*["control"] * 5, *["x=1", "control"] * pairs]):
                    steps = [math.exp(rng.gauss(0, LEVEL)) * (times if rng.random() < share else 1.0) for _ in range(count)]
                    blocks.append(Block(0, i, arm, "screen", count, sum(steps), steps, [], 0.0, 0, 0))
                means.append(statistics.fmean(pairing.arm_values(pairing.log_speedups(blocks), "x=1")))
            error = statistics.stdev(means) / math.sqrt(repeats)
            rows.append((f"{share:.0%} of the steps take {times:g} times as long", count, pairs,
                         f"{statistics.fmean(means):+.2%} +- {error:.2%}"))
    print(tabulate(rows, headers=["stalls", "steps a block", "pairs", "mean of the log speed-up"]))


SCRIPT = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    loss = model(torch.randn(128, 512)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

LOAD = """
import random, time
while True:
    end = time.time() + random.uniform(0.2, 3)
    while time.time() < end:
        sum(i * i for i in range(10000))
    time.sleep(random.uniform(0.2, 3))
"""


def real(count: int, budget: float) -> None:
    """Scans whose treatments do nothing, beside a process that is busy now and then."""
    from perfdoc.diagnosis.evidence import Evidence
    from perfdoc.launch import scan as launcher

    claimed: list[str] = []
    judged: Counter[str] = Counter()
    held = total = withheld = 0
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(launcher, "packages", return_value=["sham_probes"]):
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)
        load = subprocess.Popen([sys.executable, "-c", LOAD])
        try:
            for number in range(count):
                options = launcher.Options([sys.executable, str(script)], budget, folder=Path(folder), seed=number)
                seen = Evidence(launcher.Scan(options, lambda event: None).run())
                withheld += bool(seen.withheld)
                for arm in ["A/A", *seen.arms]:
                    values = seen.values(arm)
                    if len(values) < stats.LOOKS[0]:
                        continue
                    shown = stats.interval(values, seen.noise, overlap=seen.overlap(arm))
                    total += 1
                    held += shown.low <= 0 <= shown.high
                    # The raw judgement, not softened by the A/A arm's resolution.
                    settled = seen.capture.experiment.verdicts.get(arm)
                    verdict = stats.keep(settled, values, 0.02, len(seen.arms), seen.noise, seen.overlap(arm))
                    judged[verdict] += 1
                    if verdict in ("helps", "hurts"):
                        claimed.append(f"scan {number} {arm}: {verdict} {math.exp(shown.center):.3f}x, {len(values)} pairs")
                print(f"scan {number}: {json.dumps(judged)}", file=sys.stderr, flush=True)
        finally:
            load.kill()
    print(f"\n{count} real scans under load, {total} arms that do nothing: {dict(judged)}; claimed {len(claimed)} "
          f"({len(claimed) / max(1, total):.1%}); interval holds no effect in {held / max(1, total):.1%}; "
          f"verdicts withheld in {withheld} scans")
    for line in claimed:
        print("  " + line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--budget", type=float, default=20.0)
    args = parser.parse_args()
    simulated(args.repeats)
    confirmed(2 * args.repeats)
    stalled(10 * args.repeats)
    if args.real:
        real(args.real, args.budget)
