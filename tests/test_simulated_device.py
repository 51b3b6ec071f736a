"""What only happens on CUDA, on a device that is simulated below torch: scans, syncs, memory that runs out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs, perfdoc
from simulated_cuda import build, why_not

GAUNTLET = Path(__file__).parent / "gauntlets" / "cuda_syncs.py"


@pytest.fixture(scope="module", autouse=True)
def buildable():
    """Nothing here can be shown where the device cannot be built."""
    needs("gcc", why_not())


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The environment in which there is a device."""
    return build(tmp_path_factory.mktemp("simulated"))


WATCH = """
import json, sys, torch
from torch import nn
from perfdoc_probes.host_syncs import HostSyncs

class Loop:
    device, models, optimizers, loaders = "cuda", [], [], []

model = nn.Linear(6, 4).cuda()
given = {
    "host": torch.randn(8, 6), "labels": torch.randint(0, 4, (8,)), "model": model, "meter": torch.zeros(()),
    "optimizer": torch.optim.Adam(model.parameters()),
}
model(torch.ones(8, 6, device="cuda")).sum().backward()
given["optimizer"].step()
probe = HostSyncs()
probe.prepare(Loop())
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), given)
found = [m.conditions for m in probe.measure(Loop(), {}) if "site" in m.conditions]
print(json.dumps([[int(c["site"].rsplit(":", 1)[1]), c["call"]] for c in found]))
"""


def test_the_gauntlet_on_cuda(device):
    """Every line that waits for the device is named, and none that does not."""
    ran = subprocess.run([sys.executable, "-c", WATCH, str(GAUNTLET)], env={**os.environ, **device}, capture_output=True,
                         text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = dict(json.loads(ran.stdout.splitlines()[-1]))
    marks = {
        number: match[1] == "S" for number, line in enumerate(GAUNTLET.read_text().splitlines(), 1)
        if (match := re.search(r"#\s([SN])\b", line)) and not line.startswith("#")
    }
    assert len(marks) >= 40
    missed = [number for number, waits in marks.items() if waits and number not in found]
    false = {number: call for number, call in found.items() if not marks.get(number)}
    assert (missed, false) == ([], {})


TRAINING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(256, 3, 32, 32), torch.randint(0, 10, (256,)))
loader = DataLoader(data, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(32, 10)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
running = 0.0
while True:
    for x, y in loader:
        x, y = x.to("cuda"), y.to("cuda")
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
"""


def scanned(folder, device, *options, **settings):
    """A scan of TRAINING on the device; the device is only there in the script's own process."""
    (folder / "train.py").write_text(TRAINING)
    there = [f"{name}={value}" for name, value in {**device, **settings}.items()]
    ran = perfdoc("scan", "--json", *options, "--", "env", *there, sys.executable, "train.py", cwd=folder)
    assert ran.code == 0, ran.err
    return ran


def test_a_scan_on_a_device(tmp_path, device):
    """Phases come from device events, copies are a phase, peaks from the allocator; what needs a device is tried there."""
    ran = scanned(tmp_path, device, "--budget", "16", "--only", "non_blocking_copy,cudnn_benchmark,sync_removal")
    assert (ran.found["loop"]["device"], ran.found["loop"]["device_name"]) == ("cuda", "Simulated H100")
    assert {"transfer", "forward", "backward"} <= set(ran.found["anatomy"])
    controls = [block for block in ran.capture["blocks"] if block["arm"] == "control"]
    assert all(len(block["device_phases"]) == 7 and block["peak"] > 0 for block in controls)
    tried = {arm["arm"]: arm["change"] for arm in ran.found["arms"]}
    assert {"non_blocking_copy=on", "cudnn_benchmark=on", "sync_removal=place1"} <= set(tried)
    assert tried["sync_removal=place1"] == "no wait at train.py:19 (.item())"
    assert {block["arm"] for block in ran.capture["blocks"]} >= {"non_blocking_copy=on", "sync_removal=place1"}


@pytest.mark.alone  # it has to get as far as the larger batch
def test_a_batch_that_does_not_fit_the_device(tmp_path, device):
    """Where the larger batch runs out of memory, that arm is given up and named, and the scan goes on."""
    ran = scanned(tmp_path, device, "--budget", "12", "--only", "batch_size", SIMULATED_MEMORY_GB="0.06")
    failed = ran.capture["experiment"]["failed"]
    assert any("OutOfMemoryError" in error for error in failed.values()), failed
    assert len([block for block in ran.capture["blocks"] if block["arm"] == "control"]) > 3
