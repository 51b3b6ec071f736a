"""The learning rate is far too large: from some step on the loss is NaN, and nobody looks."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(1600, 32), torch.randn(1600, 1)), batch_size=16)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
step = 0
for epoch in range(400):
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step == 500:
            optimizer.param_groups[0]["lr"] = 1e4
    print(epoch, loss.item(), flush=True)
