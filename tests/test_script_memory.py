"""``perfdoc memory``: the plan of a script's own step."""

from __future__ import annotations

import pytest
import torch
from conftest import perfdoc
from torch import nn

import perfdoc as library

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
data = TensorDataset(torch.randn(64, 3, 16, 16), torch.randint(0, 10, (64,)))
loader = DataLoader(data, batch_size=4)
model = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, 32), *[(32, 32)] * 7)),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
"""

TRAINING = HEAD + """
optimizer = torch.optim.AdamW(model.parameters())
for epoch in range(100000):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
"""

GAN = HEAD + """
first, second = (torch.optim.SGD(p, lr=0.1) for p in ([*model[0].parameters()], [*model[1].parameters()]))
for epoch in range(100000):
    for x, y in loader:
        for optimizer in (first, second):
            optimizer.zero_grad()
            (model(x).mean() + model(-x).mean()).backward()
            optimizer.step()
"""


def test_a_script_is_planned_as_the_library_plans_its_model(tmp_path):
    """The same peaks as ``perfdoc.memory_plan`` for the same model, and the largest batch for a device."""
    (tmp_path / "train.py").write_text(TRAINING)
    ran = perfdoc("memory", "--batch", "32,256", "--device-memory", "1GiB", "--json", "train.py", cwd=tmp_path)
    assert ran.code == 0, ran.err
    found = ran.found
    names = {}
    exec(compile(HEAD, "train.py", "exec"), names)
    expected = library.memory_plan(
        names["model"], (torch.randn(4, 3, 16, 16), torch.randint(0, 10, (4,))), nn.functional.cross_entropy,
        torch.optim.AdamW(names["model"].parameters()), batch_sizes=(32, 256), device_memory=2**30,
    )
    got = {(r["batch_size"], r["precision"], r["checkpointing"]): r["peak"] for r in found["rows"]}
    assert len(got) == 8
    for row in expected.rows:
        assert got[row.batch_size, row.precision, row.checkpointing] == pytest.approx(row.peak, rel=0.01)
    largest = {(checkpointing, precision): size for checkpointing, precision, _, size in found["largest"]}
    assert largest[False, "bf16"] > largest[False, "float32"] > 256
    for (checkpointing, precision, _), size in expected.largest.items():
        assert largest[checkpointing, precision] == pytest.approx(size, rel=0.03)
    assert not (tmp_path / ".perfdoc").exists()


@pytest.mark.parametrize(("script", "arguments", "code", "said"), [
    (GAN, (), 3, "several times"),
    (TRAINING, ("--batch", "64,many"), 2, "64,128,256"),
    (TRAINING, ("--device-memory", "plenty"), 2, "24GiB"),
    (HEAD + "raise ValueError('broken data')", (), 1, "broken data"),
    (HEAD + "print('no training')", (), 3, "without an optimizer step"),
])
def test_what_cannot_be_planned_gets_a_clear_line(tmp_path, script, arguments, code, said):
    """Steps of another kind, sizes that are none, and scripts that fail or never train: one line and an exit code."""
    (tmp_path / "train.py").write_text(script)
    ran = perfdoc("memory", *arguments, "train.py", cwd=tmp_path)
    assert ran.code == code
    assert said in ran.err
