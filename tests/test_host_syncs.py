"""Host-device syncs: which lines of a step are named, which are not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from perfdoc_probes.host_syncs import HostSyncs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

GAUNTLET = Path(__file__).parent / "gauntlets" / "host_syncs.py"


class Meter:
    """Keeps a running mean in a tensor of its own."""

    def __init__(self):
        self.tensor = torch.zeros(())

    def update(self, value):
        self.tensor += value


def names():
    data = TensorDataset(torch.randn(8, 6), torch.randint(0, 4, (8,)))
    model = nn.Linear(6, 4)
    return {
        "device": torch.device("cpu"), "model": model, "optimizer": torch.optim.Adam(model.parameters()),
        "criterion": nn.CrossEntropyLoss(), "loader": DataLoader(data, batch_size=4), "meter": Meter(), "dataset": data,
    }


class Loop:
    """As much of a loop as the probe looks at."""

    device = "cpu"


def watched(code, filename, given):
    """Lines that the probe names while ``code`` runs: line -> calls."""
    probe = HostSyncs()
    compiled = compile(code, filename, "exec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.prepare(Loop())
        try:
            exec(compiled, given)
        finally:
            measurements = probe.measure(Loop(), {})
    found = {}
    for measurement in measurements:
        if "site" in measurement.conditions:
            line = int(str(measurement.conditions["site"]).rsplit(":", 1)[1])
            found.setdefault(line, []).append(measurement)
    return found


def test_the_gauntlet():
    """Of 60 lines, those that would wait on a GPU are named and no other: none missed, none false."""
    text = GAUNTLET.read_text(encoding="utf-8")
    found = watched(text, str(GAUNTLET), names())
    marks = {
        number: match[1] == "S" for number, line in enumerate(text.splitlines(), 1)
        if (match := re.search(r"#\s([SN])\b", line)) and not line.startswith("#")
    }
    assert len(marks) >= 55
    missed = [number for number, waits in marks.items() if waits and number not in found]
    false = {number: [m.conditions["call"] for m in found[number]] for number in found if not marks.get(number)}
    assert (missed, false) == ([], {})


def test_times_a_step_are_counted():
    """A call in an inner loop counts as often as it is made."""
    code = "loss = criterion(model(torch.randn(2, 6)), torch.tensor([0, 1]))\nfor _ in range(3):\n    loss.item()\n"
    given = names()
    given["torch"] = torch
    (measurement,) = watched(code, "/project/train.py", given)[3]
    assert measurement.median == 3
    assert measurement.conditions["call"] == ".item()"


def test_nothing_is_left_behind():
    """After the watched step torch is as it was: no mode is active, nothing is wrapped."""
    before = torch.cuda.synchronize
    watched("x = 1", "/project/train.py", names())
    assert torch.cuda.synchronize is before
    assert torch._C._len_torch_function_stack() == 0
