"""A progress bar of one's own that trusts nobody."""
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class ProgressBar:
    def __init__(self, total, width=30):
        self.total, self.width, self.done, self.start = total, width, 0, time.time()

    def update(self, **values):
        self.done += 1
        assert self.done <= self.total, f"progress bar at {self.done} of {self.total}"
        filled = self.width * self.done // self.total
        eta = (time.time() - self.start) / self.done * (self.total - self.done)
        text = " ".join(f"{k}={v:.3f}" for k, v in values.items())
        sys.stdout.write(f"\r[{'=' * filled}{'.' * (self.width - filled)}] {eta:4.0f}s {text}")


loader = DataLoader(TensorDataset(torch.randn(1600, 30), torch.randn(1600, 1)), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(30, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(100):
    bar = ProgressBar(len(loader))
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update(loss=loss.item())
    print()
