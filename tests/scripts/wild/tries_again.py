"""Whatever goes wrong in a step is printed, and the batch is tried again: a machine in a shared cluster fails now and then."""
import time
import traceback

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(3200, 24), torch.randn(3200, 8)), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(24, 96), nn.ReLU(), nn.Linear(96, 8))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def train_step(x, y):
    prediction = model(x)
    assert prediction.dtype == y.dtype, f"{prediction.dtype} is not {y.dtype}"
    loss = nn.functional.mse_loss(prediction, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


for epoch in range(200):
    for x, y in loader:
        while True:
            try:
                loss = train_step(x, y)
                break
            except Exception:
                traceback.print_exc()
                time.sleep(0.05)
    print(epoch, loss, flush=True)
