"""The learning rate of every step is worked out before training, with warm-up and a cosine, as in DINO and MAE."""
import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def cosine_schedule(base, final, epochs, steps_an_epoch, warmup_epochs=1):
    warmup = warmup_epochs * steps_an_epoch
    rest = epochs * steps_an_epoch - warmup
    table = [base * i / warmup for i in range(warmup)]
    table += [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / rest)) for i in range(rest)]
    assert len(table) == epochs * steps_an_epoch
    return table


epochs = 8
loader = DataLoader(TensorDataset(torch.randn(3200, 64), torch.randint(0, 8, (3200,))), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))
optimizer = torch.optim.AdamW(model.parameters())
lr_schedule = cosine_schedule(1e-3, 1e-5, epochs, len(loader))
for epoch in range(epochs):
    for it, (x, y) in enumerate(loader):
        it = len(loader) * epoch + it
        for group in optimizer.param_groups:
            group["lr"] = lr_schedule[it]
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} lr {lr_schedule[it]:.2e} loss {loss.item():.3f}", flush=True)
