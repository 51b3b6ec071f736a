"""How much memory there is for workers and larger batches: the nearest of all limits, not the machine's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from perfdoc_probes import batch_size, dataloader_workers

from perfdoc.inject.system import process_use

MIB = 2**20


def test_the_address_space_is_a_limit() -> None:
    """Under ulimit -v what is left is less than what the machine has."""
    script = ("import resource\nfrom perfdoc.inject.system import process_use\nbefore = process_use.free_memory()\n"
              "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
              f"resource.setrlimit(resource.RLIMIT_AS, (used + {200 * MIB}, -1))\n"
              f"after = process_use.free_memory()\nprint(before > after, after <= {200 * MIB})")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "True True\n"


def test_the_limits_of_all_cgroups_above_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit may stand in any group on the way up; files in the page cache are no use of it."""
    for name, limit, used, cached in (("outer", 900, 500, 100), ("inner", 10_000, 300, 0), ("free", "max", 1, 0)):
        folder = tmp_path / name
        folder.mkdir()
        stats = f"anon 1\ninactive_file {cached}"
        for file, value in (("memory.max", limit), ("memory.current", used), ("memory.stat", stats)):
            (folder / file).write_text(f"{value}\n")
    names = ("memory.max", "memory.current", "inactive_file")
    groups = [(str(tmp_path / name), *names) for name in ("outer", "inner", "free", "none")]
    monkeypatch.setattr(process_use, "_cgroups", lambda: iter(groups))
    assert process_use.free_memory() == 500


@pytest.mark.parametrize(("free", "workers"), [(100 * MIB, 0), (1100 * MIB, 2), (10_000 * MIB, 19)])
def test_workers_fit_into_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, workers: int) -> None:
    """Each may take half a gibibyte of the limit that is nearest."""
    monkeypatch.setattr(process_use, "free_memory", lambda: free)
    assert dataloader_workers.DataloaderWorkers._room()[0] == workers


def test_batches_fit_into_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch x times as large takes at most x times what the process has held; where nothing is known it is tried."""
    monkeypatch.setattr(process_use, "peak_memory", lambda: 1000 * MIB)
    monkeypatch.setattr(process_use, "free_memory", lambda: 1500 * MIB)
    assert [batch_size._fits(factor) for factor in (2, 4)] == [True, False]
    monkeypatch.setattr(process_use, "free_memory", lambda: None)
    assert batch_size._fits(4)
