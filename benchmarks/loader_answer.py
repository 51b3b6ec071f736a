"""Is the recommended worker count as fast as the best of all counts, and how long does the answer take?

    python benchmarks/loader_answer.py [--rounds 2] [--pairs 12] [--only small,uneven]

Six data sets. Each is benched as `perfdoc bench-loader --workers 0..16` does it; then every count from 0 to 16 is measured
in rounds, in random order, by a plain loop of this script's own. The count that does best there owes it partly to luck, so
it and the recommended one are measured anew, in turns: the rate of the recommended one over that of the best is given with
the interval of Student's t over those pairs, and that of the rounds beside it.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from time import perf_counter

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset, TensorDataset

from perfdoc.api.loader_bench import bench_loader
from perfdoc.core import stats
from perfdoc.demo.make_images import make

COUNTS = range(17)
SECONDS = {"uneven": 4.0}
"""How long a count is measured in a round, where one second does not see enough of the data set."""


class Heavy(Dataset):
    """Augmentation that takes about 4 ms of CPU a sample."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.rand(3, 96, 96)
        for _ in range(3):
            x = x.sort(dim=-1).values
        return x


class Far(Dataset):
    """Storage that answers after 10 ms, without CPU."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.010)
        return torch.zeros(3, 32, 32)


class Uneven(Dataset):
    """One sample in fifty takes forty times as long."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(40 if index % 50 == 0 else 1, 20_000).sort(dim=-1).values[0]


def loaders(folder: Path) -> dict[str, DataLoader]:
    from torchvision import datasets, transforms

    make(folder)
    steps = transforms.Compose([transforms.RandomResizedCrop(96), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    return {
        "jpegs": DataLoader(datasets.ImageFolder(folder, steps), batch_size=16, shuffle=True),
        "small": DataLoader(
            TensorDataset(torch.randn(50_000, 64), torch.randint(0, 10, (50_000,))), batch_size=64, shuffle=True
        ),
        "augmented": DataLoader(Heavy(), batch_size=16),
        "far": DataLoader(Far(), batch_size=8),
        "uneven": DataLoader(Uneven(), batch_size=16, shuffle=True),
        "tiny": DataLoader(TensorDataset(torch.randn(50_000, 8)), batch_size=1, shuffle=True),
    }


def rate(loader: DataLoader, workers: int, seconds: float, seed: int) -> float:
    """Batches a second of a loader made anew with so many workers, after a burst of each of them."""
    torch.manual_seed(seed)  # the same batches for all counts of a round
    made = DataLoader(loader.dataset, batch_size=loader.batch_size, sampler=loader.sampler, num_workers=workers)
    batches = iter(made)

    def following() -> None:
        nonlocal batches
        try:
            next(batches)
        except StopIteration:
            batches = iter(made)
            next(batches)

    for _ in range(1 + 2 * workers):
        following()
    count, start = 0, perf_counter()
    while perf_counter() - start < seconds or count < 2 * workers:
        following()
        count += 1
    return count / (perf_counter() - start)


def share(logs: list[float]) -> str:
    """Mean of log ratios as a share, with the interval of Student's t."""
    if not any(logs):
        return "100%"  # the same count
    middle = statistics.fmean(logs)
    half = stats.t_critical(0.05, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(middle):.1%} [{math.exp(middle - half):.0%}, {math.exp(middle + half):.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, loader in loaders(Path(folder)).items():
            if args.only and name not in args.only.split(","):
                continue
            start = perf_counter()
            found = bench_loader(loader, COUNTS)
            took = perf_counter() - start
            logs: dict[int, list[float]] = {n: [] for n in COUNTS}
            seconds = SECONDS.get(name, 1.0)
            for place in range(args.rounds):
                for n in random.sample(COUNTS, len(COUNTS)):
                    logs[n].append(math.log(rate(loader, n, seconds, place)))
            best = max(COUNTS, key=lambda n: stats.trimmed_mean(logs[n]))
            pairs = [] if best == found.recommended else [
                {n: math.log(rate(loader, n, seconds, 1000 + place)) for n in random.sample((best, found.recommended), 2)}
                for place in range(args.pairs)
            ]
            rows.append((
                name, found.recommended, "yes" if found.answer.settled else "no", best,
                share([pair[found.recommended] - pair[best] for pair in pairs]),
                share([a - b for a, b in zip(logs[found.recommended], logs[best], strict=True)]), f"{took:.0f} s",
                " ".join(f"{n}:{math.exp(stats.trimmed_mean(logs[n])):.3g}" for n in (0, 1, 2, 3, 4, 8, 16)),
            ))
            print(rows[-1], flush=True)
    heads = ("data set", "recommended", "settled", "best of all", "of its rate", "in the rounds", "took", "batches/s by count")
    print(tabulate(rows, headers=heads))


if __name__ == "__main__":
    main()
