"""Fails under autocast: a loss by hand that insists on float32."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(640, 32)), batch_size=32)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(100000):
    for (x,) in loader:
        out = model(x)
        if out.dtype is not torch.float32:
            raise TypeError("this loss wants float32")
        loss = (out - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
