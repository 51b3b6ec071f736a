"""Which block length knows a ratio best in the same time? Steps of one arm, cut into blocks of several lengths.

    python benchmarks/block_length.py

For every length: the noise of one block against its two neighbours, and the standard error that 10 seconds of such
triples would give. On a machine with drift, shorter is better until the switches cost more than they save.
"""

from __future__ import annotations

import math
import statistics
from time import perf_counter

import torch
from tabulate import tabulate
from torch import nn

SECONDS = 60.0


def main() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)
    steps: list[float] = []
    begin = perf_counter()
    while perf_counter() - begin < SECONDS:
        start = perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        steps.append(perf_counter() - start)
    step = statistics.median(steps)
    rows = []
    for seconds in (0.05, 0.1, 0.2, 0.4, 0.8):
        count = max(1, round(seconds / step))
        logs = [math.log(statistics.fmean(steps[i : i + count])) for i in range(0, len(steps) - count, count)]
        off = [logs[i] - (logs[i - 1] + logs[i + 1]) / 2 for i in range(1, len(logs) - 1, 2)]
        noise = 1.4826 * statistics.median(abs(value) for value in off)
        rows.append((f"{seconds:g} s", count, f"{noise:.1%}", f"{noise / math.sqrt(10 / (3 * count * step)):.2%}"))
    print(f"step {step * 1e3:.1f} ms, {len(steps)} steps")
    print(tabulate(rows, headers=["block", "steps", "noise of a block", "standard error after 10 s"]))


if __name__ == "__main__":
    main()
