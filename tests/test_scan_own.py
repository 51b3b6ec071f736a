"""A scan of a script that does four things to itself: each is found at its line and taken back without harm."""

from __future__ import annotations

SCRIPT = """\
import gc

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

torch.use_deterministic_algorithms(True)
gc.freeze()  # torch's own objects: a collection is to be quick here


def tidy():
    gc.collect()


def precision():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def main():
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(512, 64)), batch_size=16, shuffle=True)
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(10_000):
        for x, in loader:
            with precision():
                features = encoder(x)
                out = checkpoint(model, features, use_reentrant=False)
                loss = (out.float() - x).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tidy()


main()
"""
PLACES = {
    "cleanup_calls": "gc.collect()", "own_autocast": "return torch.autocast", "unused_gradients": "encoder(x)",
    "own_checkpointing": "checkpoint(model", "deterministic_algorithms": "torch.use_det",
}


def line_of(text):
    """``file:line`` of the first line of the script that holds the text."""
    return f"own.py:{next(n for n, line in enumerate(SCRIPT.splitlines(), 1) if text in line)}"


def test_what_the_script_does_to_itself_is_found_and_tried(scan):
    """The offers name the lines, every change has blocks in the loop, and none of them fails or is left behind."""
    ran = scan("own.py", text=SCRIPT, budget=24, options=("--json", "--only", ",".join(PLACES)))
    assert ran.code == 0, ran.err
    capture = ran.capture
    offers = {offer["slug"]: offer for offer in capture["offers"] if offer["slug"] in PLACES}
    assert {slug: offer["status"] for slug, offer in offers.items()} == dict.fromkeys(PLACES, "offered")
    for slug, text in PLACES.items():
        assert offers[slug]["site"] == line_of(text), slug
    change = offers["cleanup_calls"]["levels"][0][1]
    assert change == f"leaving out gc.collect() at {line_of('gc.collect()')}, called from {line_of('    tidy()')}"
    assert capture["experiment"]["failed"] == {}
    tried = {part.split("=")[0] for block in capture["blocks"] for part in block["arm"].split("+")}
    assert set(PLACES) <= tried
    assert not [happened for happened in capture["incidents"] if "restore" in happened["what"]]
