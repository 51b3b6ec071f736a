"""What clock and recorder cost a step, and what `perfdoc watch` does: interleaved on/off blocks in one process.

    python benchmarks/overhead.py [clock] [watch]

The script starts itself again under perfdoc's injection, once for the clock only and once as `perfdoc watch` would, with its
sampler of stacks; it turns all of that on and off every few steps. Nothing else is switched.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

CASES = (
    ("1 ms", 128, 3, 1, 60, 400),
    ("1 ms", 128, 3, 2, 60, 400),
    ("20 ms", 850, 4, 1, 5, 600),
    ("20 ms", 1080, 4, 2, 5, 600),
)
"""Name, width and depth of the network, intra-op threads, steps a block, pairs of blocks."""


def inside(watch: bool) -> None:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from perfdoc.core import stats
    from perfdoc.inject import session as sessions
    from perfdoc.inject.lines.watch_look import WatchLook

    watching = sessions.current
    assert watching is not None
    for name, width, depth, threads, steps, pairs in CASES:
        torch.set_num_threads(threads)
        model = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        batches = iter(DataLoader(TensorDataset(torch.randn(20_000, width)), batch_size=64, sampler=Cycle(20_000)))

        def block(count: int, model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer,
                  batches: object = batches) -> float:
            start = perf_counter()
            for _ in range(count):
                (x,) = next(batches)  # type: ignore[call-overload]
                loss = model(x).pow(2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return (perf_counter() - start) / count

        watching.restart_observation()
        block(300 if width < 500 else 80)
        look = watching._look
        assert isinstance(look, WatchLook) == watch, "the loop is known"
        ratios, differences, off_times = [], [], []
        for _ in range(pairs):
            times = {}
            for on in random.sample((True, False), 2):
                watching.enabled = on
                if isinstance(look, WatchLook):
                    look._sampler.start() if on else look._sampler.stop()
                block(2)
                times[on] = block(steps)
            watching.enabled = True
            if isinstance(look, WatchLook):
                look._sampler.stop()
            ratios.append(math.log(times[True] / times[False]))
            differences.append(times[True] - times[False])
            off_times.append(times[False])
        low, high = stats.bootstrap_bounds(ratios, 0.05)
        low_s, high_s = stats.bootstrap_bounds(differences, 0.05)
        print(f"{name}, {threads} thread(s): bare step {statistics.median(off_times) * 1e3:.2f} ms; with "
              f"{'`perfdoc watch`' if watch else 'clock and recorder'} "
              f"{math.expm1(stats.trimmed_mean(ratios)):+.2%} [{math.expm1(low):+.2%}, {math.expm1(high):+.2%}], "
              f"{stats.trimmed_mean(differences) * 1e6:+.0f} µs [{low_s * 1e6:+.0f}, {high_s * 1e6:+.0f}]; "
              f"{watching.steps_written} steps recorded")


class Cycle:
    """Sampler without end."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):  # type: ignore[no-untyped-def]
        while True:
            yield from range(self.count)

    def __len__(self) -> int:
        return self.count


def main() -> None:
    from perfdoc.launch.environment import environment

    for kind in sys.argv[1:] or ("clock", "watch"):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"lap": 0, "budget": 1e9, "spent": 0, "guard": True, "protect": [], "experiment": False, "only": [],
                        "packages": [], "smallest_effect": 0.02, "seed": 0, "history": None, "excluded": [],
                        "watch": kind == "watch"}
            Path(folder, "settings.json").write_text(json.dumps(settings))
            subprocess.run([sys.executable, __file__], env={**environment(Path(folder)), "OVERHEAD": kind}, check=True)
            size = sum(file.stat().st_size for file in Path(folder).glob("*-0-*"))
            print(f"event and step files: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    inside(os.environ["OVERHEAD"] == "watch") if os.environ.get("OVERHEAD") else main()
