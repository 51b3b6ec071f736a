"""Picks the first arrival in seismograms that lie in one HDF5 file."""

import os
import sys

import h5py
import numpy as np
import torch
from torch import nn

SMALL = "--small" in sys.argv
STORE = "events.h5"
COMPONENTS, SAMPLES, BLOCK = 3, 1000, 256


def record(events):
    """The catalogue as the station wrote it: compressed, a block of events at a time."""
    rng = np.random.default_rng(20)
    time = np.arange(SAMPLES)
    with h5py.File(STORE, "w") as file:
        waves = file.create_dataset(
            "waves", (events, COMPONENTS, SAMPLES), "i2", chunks=(BLOCK, COMPONENTS, SAMPLES), compression="gzip",
        )
        arrivals = rng.integers(200, 800, events)
        file["arrivals"] = arrivals
        for begin in range(0, events, BLOCK):
            start = arrivals[begin : begin + BLOCK, None, None]
            after = (time - start).clip(0)
            tone = 900 * np.sin(after / 6) * np.exp(-after / 150) * np.array([1.0, 0.6, 0.8])[:, None]
            waves[begin : begin + BLOCK] = tone + rng.integers(-6, 7, tone.shape)


class Seismograms(torch.utils.data.Dataset):
    def __init__(self):
        with h5py.File(STORE) as file:
            self.arrivals = file["arrivals"][:]
        self.file = None

    def __len__(self):
        return len(self.arrivals)

    def __getitem__(self, event):
        if self.file is None:  # every worker has a handle of its own
            self.file = h5py.File(STORE)
        wave = self.file["waves"][event].astype("float32")
        return wave / (1 + np.abs(wave).max()), self.arrivals[event] / SAMPLES


class Picker(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(COMPONENTS, width, 9, stride=4), nn.ReLU(),
            nn.Conv1d(width, width, 9, stride=4), nn.ReLU(),
            nn.AdaptiveMaxPool1d(12), nn.Flatten(), nn.Linear(12 * width, 1),
        )

    def forward(self, wave):
        return self.body(wave)[:, 0]


if __name__ == "__main__":
    if not os.path.exists(STORE):
        record(BLOCK * (2 if SMALL else 24))
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        Seismograms(), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
    picker = Picker()
    optimizer = torch.optim.SGD(picker.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(200):
        total = 0.0
        for wave, arrival in loader:
            optimizer.zero_grad()
            loss = nn.functional.l1_loss(picker(wave), arrival.float())
            loss.backward()
            optimizer.step()
            total += loss.item()
        print("epoch", epoch, "mean error", round(total / len(loader) * SAMPLES, 1), "samples", flush=True)
