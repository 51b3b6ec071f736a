"""A bug of its own: the warm-up is planned second by second, and nobody thought of what comes after it."""
import sys
import time

import torch
from torch import nn

model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rates = {second: 0.1 * (second + 1) for second in range(int(sys.argv[1]))}
start = time.monotonic()
for step in range(1_000_000):
    x, y = torch.randn(64, 256), torch.randint(0, 10, (64,))
    optimizer.param_groups[0]["lr"] = rates[int(time.monotonic() - start)]
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(step, loss.item(), flush=True)
