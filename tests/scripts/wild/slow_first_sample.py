"""Every process opens an archive at its first sample, which takes a while; samples are quick from then on."""
import os
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SECONDS = float(os.environ.get("ARCHIVE_SECONDS", "4"))


class Archive(Dataset):
    def __init__(self, n):
        self.n, self.opened_by = n, None

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if self.opened_by != os.getpid():
            time.sleep(SECONDS)
            self.opened_by = os.getpid()
        return torch.full((24,), i / self.n), torch.tensor([float(i % 2)])


loader = DataLoader(Archive(6400), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(1000):
    for x, y in loader:
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), flush=True)
