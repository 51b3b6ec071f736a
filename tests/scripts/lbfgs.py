"""A closure that LBFGS calls up to twenty times a step."""
import torch
from torch import nn

x = torch.randn(128, 10)
y = torch.sin(x.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=20)
for step in range(100000):

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
