"""A scan names the lines of the script that the time goes to: in the loop, in a data set's workers, and between epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Scanned, left_behind, perfdoc

Scan = Callable[..., Scanned]

SCRIPT = '''
import time
import torch
from torch.utils.data import DataLoader, Dataset


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Samples(Dataset):
    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        busy(0.004)  # in a worker
        return torch.randn(8), torch.randn(1)


def follow():
    busy(0.006)  # in the loop


def main():
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(10**6):
        for x, y in DataLoader(Samples(), batch_size=4, num_workers=WORKERS, multiprocessing_context=CONTEXT):
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            follow()
        busy(0.3)  # at the turn


if __name__ == "__main__":
    main()
'''


def line_of(comment: str) -> int:
    return next(n for n, line in enumerate(SCRIPT.splitlines(), 1) if comment in line)


def row_at(rows: list[dict[str, Any]], line: int) -> dict[str, Any]:
    """The row of a line; on a busy machine the one below it may be as hot, and they are told as ``train.py:18-19``."""
    (found,) = [row for row in rows if (ends := row["where"].removeprefix("train.py:").split("-"))
                and int(ends[0]) <= line <= int(ends[-1])]
    return found


@pytest.mark.parametrize(("workers", "context", "length"), [(0, None, 48), (2, "fork", 48), (2, "spawn", 480000)])
def test_a_scan_names_the_lines(tmp_path: Path, workers: int, context: str | None, length: int) -> None:
    """Code of a data set, made by the loop or by workers of either kind, and code of the loop itself, with their shares."""
    text = SCRIPT.replace("WORKERS", str(workers)).replace("CONTEXT", repr(context)).replace("LENGTH", str(length))
    (tmp_path / "train.py").write_text(text)
    scanned = perfdoc("scan", "--budget", "12", "--json", "train.py", cwd=tmp_path)
    assert scanned.code == 0, scanned.err
    found = json.loads(scanned.out)
    sample, loops = row_at(found["lines"], line_of("in a worker")), row_at(found["lines"], line_of("in the loop"))
    assert (sample["function"], sample["kind"], sample["phase"], sample["in_worker"]) == (
        "Samples.__getitem__", "code", "data", bool(workers))
    assert (loops["function"], loops["kind"], loops["phase"]) == ("follow", "code", "other")
    assert sample["share"] > 0.1
    assert loops["share"] > 0.1
    assert bool(found["between_steps"]) == (length == 48)
    incidents = json.loads((scanned.run_folder / "capture.json").read_text())["incidents"]
    assert {one["what"] for one in incidents} <= {"stalled", "went_on"}, "a busy machine may stand still; nothing failed"
    assert left_behind(scanned.run_folder) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".perfdoc", "train.py"]


ANEW = '''
import torch
from torch.utils.data import DataLoader, TensorDataset


def main():
    loader = DataLoader(TensorDataset(torch.randn(2000, 8), torch.randn(2000, 1)), batch_size=8, num_workers=1)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    while True:
        x, y = next(iter(loader))
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
'''


def test_a_scan_sees_that_every_batch_starts_the_loader(tmp_path: Path) -> None:
    """While the loop is held its batches come from one iterator; what it takes as it is written is said first."""
    (tmp_path / "train.py").write_text(ANEW)
    scanned = perfdoc("scan", "--budget", "15", "--json", "train.py", cwd=tmp_path)
    assert scanned.code == 0, scanned.err
    first, second, *_ = json.loads(scanned.out)["answer"]
    assert "to start the loader anew for every batch (train.py:11)" in first
    assert second.startswith("With one iterator for all of them")
