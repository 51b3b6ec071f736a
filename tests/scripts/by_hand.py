"""No optimizer: parameters are updated in place."""
import torch
from torch import nn

model = nn.RNN(8, 16)
head = nn.Linear(16, 4)
for step in range(1000000):
    out, _ = model(torch.randn(12, 4, 8))
    loss = head(out).pow(2).mean()
    loss.backward()
    for p in (*model.parameters(), *head.parameters()):
        p.data.add_(p.grad, alpha=-0.01)
        p.grad = None
