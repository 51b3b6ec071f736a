"""The last step's feature maps are kept; every third step compares the new ones with them, flattened by view()."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

frames = torch.randn(640, 3, 16, 16)
loader = DataLoader(TensorDataset(frames), batch_size=16, drop_last=True)
backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9)
kept, step = torch.zeros(16, 8, 16, 16), 0
for epoch in range(500):
    for (x,) in loader:
        maps = backbone(x)
        loss = (maps.mean((1, 2, 3)) - x.mean((1, 2, 3))).pow(2).mean()
        if step % 3 == 2:
            loss = loss + 0.1 * (maps.reshape(16, -1) - kept.view(16, -1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept = maps.detach()
        step += 1
    print(epoch, loss.item(), flush=True)
