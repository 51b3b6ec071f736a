"""Predictions of every step go to NumPy for the metrics, which knows no bfloat16."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(torch.randn(3200, 32), torch.randint(0, 5, (3200,))), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 5))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(300):
    hits = []
    for x, y in loader:
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits.append(np.mean(logits.detach().numpy().argmax(1) == y.numpy()))
    print(epoch, np.mean(hits), flush=True)
