"""Gradient accumulation: the batches left over at the end of an epoch make a smaller group of their own."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

dataset = TensorDataset(torch.randn(800, 40), torch.randint(0, 4, (800,)))
loader = DataLoader(dataset, batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(40, 200), nn.ReLU(), nn.Linear(200, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
accum_steps = 2
last_accum_steps = len(loader) % accum_steps
last_batch_idx_to_accum = len(loader) - last_accum_steps
for epoch in range(300):
    accum = accum_steps
    running = 0.0
    for batch_idx, (x, y) in enumerate(loader):
        if batch_idx >= last_batch_idx_to_accum:
            accum = last_accum_steps
        loss = nn.functional.cross_entropy(model(x), y) / accum
        loss.backward()
        running += loss.item()
        if (batch_idx + 1) % accum == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(f"epoch {epoch}: {running / len(loader):.4f}", flush=True)
