"""One epoch over a small data set: over in a third of a second."""
import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1, metavar="N", help="number of epochs to train")
parser.add_argument("--lr", type=float, default=0.1)
args = parser.parse_args()
loader = DataLoader(TensorDataset(torch.randn(4800, 64), torch.randint(0, 4, (4800,))), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4))
optimizer = torch.optim.SGD(model.parameters(), args.lr)
for epoch in range(args.epochs):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {loss.item():.3f}")
