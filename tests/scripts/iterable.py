"""A stream that ends now and then."""
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __iter__(self):
        for _ in range(500):
            yield torch.randn(12)


model = nn.Linear(12, 12)
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(10000):
    for x in DataLoader(Stream(), batch_size=10):
        loss = (model(x) - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
