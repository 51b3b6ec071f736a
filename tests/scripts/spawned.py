"""Training happens in a child process; the parent only waits."""
import torch
import torch.multiprocessing as mp
from torch import nn


def train(rank):
    model = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1000000):
        loss = model(torch.randn(16, 10)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    mp.spawn(train, nprocs=1)
