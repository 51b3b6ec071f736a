"""Looks at the accuracy on the training data every fifty steps, within the epoch."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(480, 32), torch.randint(0, 4, (480,)))
loader = DataLoader(data, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step = 0
for epoch in range(2000):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                right = sum(int((model(a).argmax(1) == b).sum()) for a, b in loader)
            model.train()
            print(step, right / len(data), flush=True)
