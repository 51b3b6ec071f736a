# Fraud or not: a table of card payments that fits into memory as it is.
import sys

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

payments = 10_000 if "--small" in sys.argv else 900_000
dice = torch.Generator().manual_seed(55)
numbers = torch.randn(payments, 18, generator=dice)
shops = torch.randint(0, 500, (payments,), generator=dice)
fraud = ((numbers[:, :3].sum(1) + 0.01 * shops) > 6).float()

torch.manual_seed(55)
dataset = TensorDataset(numbers, shops, fraud)
# A whole batch of places at once, which the tensors are cut at in one go.
loader = DataLoader(dataset, batch_size=None, sampler=BatchSampler(RandomSampler(dataset), 4096, drop_last=False))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.shops = nn.Embedding(500, 14)
        self.layers = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, numbers, shops):
        return self.layers(torch.cat([numbers, self.shops(shops)], 1))[:, 0]


detector = Detector()
optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(20.0))
for epoch in range(1, 2001):
    caught = frauds = 0
    for x, shop, y in loader:
        optimizer.zero_grad()
        score = detector(x, shop)
        loss = loss_of(score, y)
        loss.backward()
        optimizer.step()
        caught += int(((score > 0) & (y > 0)).sum())
        frauds += int(y.sum())
    print(f"epoch {epoch}: {caught} of {frauds} caught", flush=True)
