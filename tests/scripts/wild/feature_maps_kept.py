"""Feature maps are kept, and the new ones compared with those of 400 steps before, flattened by view()."""
from collections import deque

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

frames = torch.randn(640, 3, 16, 16)
loader = DataLoader(TensorDataset(frames), batch_size=16, drop_last=True)
backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9)
kept = deque([torch.zeros(16, 4, 16, 16)], maxlen=400)
for epoch in range(500):
    for (x,) in loader:
        maps = backbone(x)
        loss = (maps.mean((1, 2, 3)) - x.mean((1, 2, 3))).pow(2).mean()
        loss = loss + 0.1 * (maps.reshape(16, -1) - kept[0].view(16, -1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept.append(maps.detach())
    print(epoch, loss.item(), flush=True)
