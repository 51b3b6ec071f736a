"""Counts its batches, evaluates without eval() and keeps the whole model at the end of every epoch."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        return x + self.inner(x)


train = DataLoader(TensorDataset(torch.randn(400, 32), torch.randint(0, 4, (400,))), batch_size=16, shuffle=True)
test = DataLoader(TensorDataset(torch.randn(2000, 32), torch.randint(0, 4, (2000,))), batch_size=16)
model = nn.Sequential(Block(), Block(), Block(), nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def iteration(loader, training):
    left = list(range(len(loader)))
    for x, y in loader:
        left.pop()
        loss = nn.functional.cross_entropy(model(x), y)
        if training:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


for epoch in range(3000):
    print(epoch, iteration(train, True), iteration(test, False), flush=True)
    torch.save(model, "whole.pt")
