"""Environment variables of a scan: what decides how a script runs is kept and set again, secrets never are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import TORCH, perfdoc

from perfdoc.core.typed_json import to_json
from perfdoc.launch import variables

pytestmark = pytest.mark.any_python

THEN = {
    "PYTHONPATH": "lib", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "3", "TORCH_LOGS": "", "DATA_DIR": "/data",
    "WANDB_API_KEY": "secret-1", "MY_PASSWORD": "secret-2", "HF_TOKEN": "secret-3", "TERM": "xterm", "PERFDOC_RUN_DIR": "x",
}


def test_what_is_kept_and_what_never_is() -> None:
    """Values of what matters, digests of the rest, nothing of secrets or of the terminal."""
    found = variables.record(THEN)
    matter = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH", "TORCH_LOGS")
    assert found.values == {name: THEN[name] for name in matter}
    assert list(found.digests) == ["DATA_DIR"]
    assert "secret" not in json.dumps(to_json(found))
    assert "/data" not in json.dumps(to_json(found))


def test_a_difference_is_said() -> None:
    """What matters is told with both values, the rest by name; no difference is no word."""
    now = {**THEN, "OMP_NUM_THREADS": "2", "DATA_DIR": "/other", "LD_PRELOAD": "x.so", "TERM": "dumb", "HF_TOKEN": "other"}
    del now["PYTHONPATH"]
    said = variables.difference(variables.record(THEN), variables.record(now))
    assert "PYTHONPATH was 'lib', is not set" in said
    assert "OMP_NUM_THREADS was '1', is '2'" in said
    assert "LD_PRELOAD was not set, is 'x.so'" in said
    assert "other values of DATA_DIR" in said
    assert "TOKEN" not in said
    assert variables.difference(variables.record(THEN), variables.record(THEN)) == ""


def test_they_are_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What matters is as it was then, also what was not set; everything else stays as it is now."""
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "2", "LD_PRELOAD": "x.so", "HOME": "/home/me"})
    variables.set_again(variables.record(THEN))
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["PYTHONPATH"] == "lib"
    assert "LD_PRELOAD" not in os.environ
    assert os.environ["HOME"] == "/home/me"


SCRIPT = """
import torch, scales
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=scales.RATE)
loader = DataLoader(TensorDataset(torch.randn(640, 16), torch.randint(0, 4, (640,))), batch_size=8)
for epoch in range(100000):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""


@pytest.mark.skipif(not TORCH, reason="scans a script")
def test_verify_finds_the_modules_of_the_scan(tmp_path: Path) -> None:
    """A module that only the scan's PYTHONPATH leads to is found by verify without it, and the difference is said."""
    (tmp_path / "train.py").write_text(SCRIPT)
    helpers = tmp_path.parent / "helpers"
    helpers.mkdir(exist_ok=True)
    (helpers / "scales.py").write_text("RATE = 0.1\n")
    scanned = perfdoc("scan", "--json", "--budget", "5", "--only", "optimizer_implementation", "train.py", cwd=tmp_path,
                      PYTHONPATH=str(helpers))
    assert scanned.code == 0, scanned.err
    assert scanned.capture["environment"]["variables"]["values"]["PYTHONPATH"] == str(helpers)
    verified = perfdoc("verify", "--changes", "optimizer_implementation=foreach", "--budget", "5", cwd=tmp_path, PYTHONPATH="")
    assert verified.code == 0, verified.err
    assert "PYTHONPATH was" in verified.err
