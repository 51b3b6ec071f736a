"""A bug of its own: a step whose sample has no name."""
import sys

import torch
from torch import nn

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
names = {i: f"sample-{i}" for i in range(int(sys.argv[1]))}
for step in range(100_000):
    x, y = torch.randn(32, 32), torch.randint(0, 10, (32,))
    name = names[step]
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(name, loss.item(), flush=True)
