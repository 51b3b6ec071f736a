#!/usr/bin/env python
"""Normal or not? Heart beats of different length, cut out of an ECG."""
import argparse
import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")

LEADS = 12


def cut_beats(count):
    rng = np.random.default_rng(8)
    shapes = rng.standard_normal((5, LEADS)).astype("float32")
    for _ in range(count):
        kind = int(rng.integers(5))
        length = int(rng.integers(150, 260))
        bump = np.exp(-((np.arange(length, dtype="float32") - length / 2) ** 2) / 200)
        noise = rng.standard_normal((length, LEADS), dtype="float32")
        yield {"kind": kind, "signal": bump[:, None] * shapes[kind] + 0.1 * noise}


class Pad:
    """Makes one batch of beats, as long as the longest of them."""

    def __init__(self, multiple=8):
        self.multiple = multiple

    def __call__(self, beats):
        longest = max(beat["signal"].shape[0] for beat in beats)
        length = -(-longest // self.multiple) * self.multiple
        signals = []
        for beat in beats:
            signal = np.zeros((length, LEADS), dtype="float32")
            signal[: len(beat["signal"])] = beat["signal"]
            signals.append(signal)
        return torch.tensor(signals), torch.tensor([beat["kind"] for beat in beats])


class BeatNet(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.first = nn.Conv1d(LEADS, width, 11, stride=4)
        self.second = nn.Conv1d(width, width, 7, stride=4)
        self.kinds = nn.Linear(width, 5)

    def forward(self, signals):
        x = self.first(signals.transpose(1, 2)).relu()
        return self.kinds(self.second(x).relu().amax(-1))


def fit(options):
    beats = list(cut_beats(200 if options.small else 4000))
    loader = DataLoader(beats, options.batch, shuffle=True, collate_fn=Pad())
    net = BeatNet()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=5e-4)
    for epoch in range(1, 401):
        net.train()
        running = 0.0
        for signals, kinds in loader:
            loss = nn.functional.cross_entropy(net(signals), kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running = 0.9 * running + 0.1 * loss.item()
        print(f"{epoch:4d}: {running:.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small", action="store_true", help="few beats, to see whether it runs")
    fit(parser.parse_args())
