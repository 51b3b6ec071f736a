"""Loaders benched as users do it: by script, by name, in a notebook; and data sets that break."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import statistics
import time

import psutil
import pytest
import torch
from conftest import perfdoc as command
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import perfdoc
from perfdoc.core.errors import PerfdocError
from perfdoc.loader_bench.bench import LoaderBench
from perfdoc.loader_bench.open_resources import open_resources
from perfdoc.loader_bench.setting import settings_of

TRAIN = """
import time, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Waiting(Dataset):
    def __len__(self): return 4000
    def __getitem__(self, i):
        time.sleep(0.002)
        return torch.randn(8), i % 2

def make():
    return DataLoader(Waiting(), batch_size=8)

if __name__ == "__main__":
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in make():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    open("finished", "w").close()
"""


class Waits(Dataset):
    """A sample takes a moment in which no CPU is used, as from a far disk."""

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.zeros(4)


class Breaks(Dataset):
    """Works in the training process; in a worker it does ``what``."""

    def __init__(self, what):
        self.what = what
        self.home = os.getpid()

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if os.getpid() != self.home:
            if self.what == "raise":
                raise ValueError("sample is broken")
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.what == "hang":
                time.sleep(60)
        return torch.zeros(4 + (index % 2 if self.what == "shapes" else 0))


def children():
    return psutil.Process().children(recursive=True)


@pytest.mark.alone
def test_a_script_is_benched_for_what_its_step_takes(tmp_path):
    """The training loader is caught, waits are shortened by workers, the demand is the loop's; the script is not run on."""
    (tmp_path / "train.py").write_text(TRAIN)
    ran = command("bench-loader", "--workers", "0,1,2", "--budget", "8", "--json", "train.py", cwd=tmp_path)
    assert ran.code == 0, ran.err
    found = ran.found
    rates = {row["workers"]: row["batches_per_second"] for row in found["rows"]}
    assert rates[2] > 1.3 * rates[0]
    assert found["batches_per_second_needed"] > rates[0]
    assert found["loader"]["site"] == "train.py:13"
    assert found["loader"]["dataset"] == "Waiting"
    assert set(found["epoch_turn"]) <= {"respawned", "persistent"}
    # The model trains on the loader's cores: what a step takes beside it was measured too.
    beside = {row["workers"]: row["seconds_beside_step"] for row in found["rows"]}
    assert beside[0] > beside[2] > 0
    assert found["rows"][2]["speedup_beside_step"][0] > 1
    assert not (tmp_path / "finished").exists()
    assert ran.capture["loader"]["batch_size"] == 8
    # The report draws it, and can be drawn again from the capture.
    again = command("report", "--html", "again.html", cwd=tmp_path)
    assert again.code == 0, again.err
    assert "samples/s" in again.out
    assert "The loader by number of workers" in (tmp_path / "again.html").read_text()


def test_a_callable_is_benched(tmp_path):
    """``module:callable`` returns the loader; nothing of the module's training runs."""
    (tmp_path / "train.py").write_text(TRAIN)
    ran = command("bench-loader", "--workers", "0..1", "--budget", "3", "--step-time", "1", "train:make", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "The step takes 1 batches/s" in " ".join(ran.out.split())
    assert "report.html" in ran.out


def test_without_a_target_the_configured_one_is_taken(tmp_path):
    """[tool.perfdoc] names the loader; the line says so."""
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "pyproject.toml").write_text('[tool.perfdoc]\nloader = "train:make"\n')
    ran = command("bench-loader", "--workers", "0", "--budget", "2", "--json", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "[tool.perfdoc]" in ran.err
    assert json.loads(ran.out)["rows"][0]["samples_per_second"] > 0


@pytest.mark.parametrize(("arguments", "said"), [
    (("--workers", "4..0", "x.py"), "runs backwards"),
    (("--workers", "many", "x.py"), "is no list of numbers"),
    (("--pin-memory", "maybe", "x.py"), "say yes, no or both"),
    (("--workers", "0..4000000000", "x.py"), "numbers from 0 to 512"),
    (("nothere.py",), "no such script"),
    (("nothere:make",), "no module is called 'nothere'"),
    (("json:dumpster",), "json has no 'dumpster'"),
    (("math:pi",), "not a torch.utils.data.DataLoader"),
    (("--step-time", "nothere", "x.py"), "no such run"),
    (("--step-time", "-1", "x.py"), "more than 0 seconds"),
    (("--images", ".",), "no pictures below"),
])
def test_bad_input_gets_one_line(tmp_path, arguments, said):
    """What cannot be benched is said in a line, with a non-zero exit."""
    (tmp_path / "x.py").write_text("pass\n")
    ran = command("bench-loader", *arguments, cwd=tmp_path)
    assert ran.code != 0
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_loop_without_a_loader_is_said(tmp_path):
    """A script that makes its batches by hand has nothing to bench."""
    (tmp_path / "train.py").write_text(
        "import torch\nm = torch.nn.Linear(8, 8)\no = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "for _ in range(100000):\n    m(torch.randn(4, 8)).sum().backward(); o.step(); o.zero_grad()\n"
    )
    ran = command("bench-loader", "--workers", "0,1", "--budget", "3", "train.py", cwd=tmp_path)
    assert ran.code != 0
    assert "no DataLoader" in ran.err


def test_in_a_notebook_the_same_is_measured():
    """bench_loader leaves the loader as it is, leaves no worker behind, and shows a table."""
    loader = DataLoader(Waits(), batch_size=4, shuffle=True)
    before = dict(vars(loader))
    found = perfdoc.bench_loader(loader, workers=(0, 2), budget=5.0, step_time=0.5)
    assert found.recommended == 2
    assert found.answer.enough.workers == 0
    assert "num_workers=2" in str(found)
    assert "<table>" in found._repr_html_()
    assert vars(loader) == before
    assert not children()


@pytest.mark.alone
def test_beside_the_step_a_batch_takes_as_long_as_the_slower_of_both():
    """16 ms of waiting a batch and 10 ms of computing: 26 ms in turn without workers, little more than 10 ms with four."""
    told = []
    LoaderBench(DataLoader(Waits(), batch_size=8), settings_of((0, 4), {}), 20.0, told.append, compute=0.010).run()
    beside = [(m.conditions["workers"], *m.samples) for m in told if m.metric == "loader.beside"]
    without, with_four = (statistics.median(s for n, s in beside if n == count) for count in (0, 4))
    assert without > 0.016
    assert with_four < 0.8 * without
    assert not children()


def test_beside_the_step_nothing_is_measured_that_would_take_too_long():
    """A stock of 64 batches of 0.1 s is not used up within a share of a short budget: said, in place of a figure."""
    told = []
    settings = settings_of((0, 2), {"prefetch": (32,)})
    LoaderBench(DataLoader(Waits(), batch_size=50), settings, 8.0, told.append, compute=0.010).run()
    found = [m for m in told if m.metric == "loader.beside"]
    assert [type(m).__name__ for m in found] == ["Unavailable"]


def test_workers_on_data_in_memory_are_not_recommended():
    """A TensorDataset is faster without workers, and that is the answer."""
    loader = DataLoader(TensorDataset(torch.randn(4000, 8)), batch_size=16)
    assert perfdoc.bench_loader(loader, workers=(0, 1, 2), budget=4.0).recommended == 0


def test_other_settings_are_crossed_with_the_counts():
    """prefetch_factor has no meaning without workers: 0 stands once."""
    assert [(s.workers, s.prefetch) for s in settings_of((0, 2), {"prefetch": (2, 4)})] == [(0, None), (2, 2), (2, 4)]


def test_batches_of_other_sizes_are_compared_in_samples():
    """Twice the batch at half the batches a second is no slower."""
    found = perfdoc.bench_loader(DataLoader(Waits(), batch_size=4), workers=(0,), batch_size=(4, 16), budget=3.0)
    speeds = {row.setting["batch_size"]: row.rate * found.answer.batch_samples(row) for row in found.answer.rows}
    assert speeds[16] > 0.8 * speeds[4]


@pytest.mark.parametrize(("what", "said"), [
    ("raise", "ValueError: sample is broken"),
    ("die", "a worker died"),
    ("hang", "a worker hangs"),
])
def test_a_data_set_that_breaks_in_workers(what, said):
    """The counts with workers are reported with what went wrong, the one without is measured, nothing is left running."""
    loader = DataLoader(Breaks(what), batch_size=4)
    if what == "hang":
        loader.__dict__["timeout"] = 2.0  # the user's own time-out is kept
    found = perfdoc.bench_loader(loader, workers=(0, 1, 2), budget=6.0)
    why = {row.workers: row.why for row in found.answer.rows}
    assert why[0] == ""
    assert said in why[1]
    assert found.recommended == 0
    assert not children()


class Spoilt(Dataset):
    """Now and then a sample cannot be made."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 40:
            raise OSError("Read timed out, allow_pickle=True")
        return torch.zeros(4)


def test_a_broken_sample_is_told_in_its_own_words():
    """A data set that fails in every epoch ends in one line with its own error, not in a guess about hangs or pickles."""
    with pytest.raises(PerfdocError, match="OSError: Read timed out, allow_pickle=True"):
        perfdoc.bench_loader(DataLoader(Spoilt(), batch_size=4), workers=(0, 1), budget=3.0)


def test_random_numbers_are_as_before():
    """The bench draws from samplers and data sets; afterwards torch goes on where it was."""
    loader = DataLoader(TensorDataset(torch.randn(64, 2)), batch_size=4, shuffle=True)
    state = torch.get_rng_state()
    perfdoc.bench_loader(loader, workers=(0,), budget=2.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_of_different_shapes_are_the_loaders_own_failure():
    """Nothing can be collated with any count: one clear line."""
    with pytest.raises(PerfdocError, match="the loader delivers no batch: RuntimeError: stack expects each tensor"):
        perfdoc.bench_loader(DataLoader(Breaks("shapes"), batch_size=4), workers=(0, 1), budget=3.0)


def test_what_cannot_be_pickled_is_said_for_spawned_workers():
    """A lambda in the data set cannot be sent to spawned workers; 0 workers are measured."""
    data = TensorDataset(torch.randn(64, 4))
    data.transform = lambda x: x
    found = perfdoc.bench_loader(DataLoader(data, batch_size=4), workers=(0, 1), multiprocessing_context=("spawn",), budget=4.0)
    assert "cannot be sent to workers that are spawned" in next(row.why for row in found.answer.rows if row.workers == 1)


def test_open_files_and_connections_are_named(tmp_path):
    """Forked workers would share them: the data set's own and those of what it wraps."""
    data = TensorDataset(torch.randn(4, 4))
    data.db = sqlite3.connect(":memory:")
    data.inner = TensorDataset(torch.randn(4, 4))
    with (tmp_path / "x").open("w") as data.inner.log:
        found = open_resources(data)
    assert any(line.startswith("db: an open connection") for line in found)
    assert any(line.startswith("inner.log: an open file") for line in found)


def test_an_iterable_data_set_is_iterated_again_and_again():
    """A stream that ends after three batches is measured all the same."""

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.randn(12, 4))

    found = perfdoc.bench_loader(DataLoader(Stream(), batch_size=4), workers=(0,), budget=2.0)
    assert found.answer.rows[0].rate > 0


def test_an_empty_data_set_is_said():
    """There is nothing to deliver."""
    with pytest.raises(PerfdocError, match="the data set is empty"):
        perfdoc.bench_loader(DataLoader(TensorDataset(torch.empty(0, 4)), batch_size=4), workers=(0,), budget=2.0)
