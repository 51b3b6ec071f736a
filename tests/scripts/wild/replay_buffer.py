"""Old features are kept, and replayed now and then so that the decoder does not forget them."""
import random
from collections import deque

import torch
from torch import nn

encoder = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
decoder = nn.Linear(16, 32)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
memory = deque(maxlen=100)
for step in range(20_000):
    x = torch.randn(24, 32)
    z = encoder(x)
    loss = nn.functional.mse_loss(decoder(z), x)
    if len(memory) > 20:
        old_z, old_x = random.choice(memory)
        loss = loss + 0.5 * nn.functional.mse_loss(decoder(old_z), old_x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    memory.append((z.detach(), x))
    if step % 1000 == 0:
        print(step, loss.item(), flush=True)
