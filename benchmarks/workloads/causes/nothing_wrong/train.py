"""The control: a residual network on pictures that lie in memory, cut out a batch at a time. Nothing is wrong with it."""

import sys

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

SMALL = "--small" in sys.argv
KINDS = 10


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return torch.relu(x + self.layers(x))


def pictures(count):
    dice = torch.Generator().manual_seed(70)
    kind = torch.randint(0, KINDS, (count,), generator=dice)
    centres = torch.randn(KINDS, 3, 24, 24, generator=dice)
    return TensorDataset(centres[kind] + torch.randn(count, 3, 24, 24, generator=dice), kind)


def main():
    torch.manual_seed(7)
    data = pictures(320 if SMALL else 4000)
    loader = DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), 32, drop_last=True))
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
        Residual(32), nn.MaxPool2d(2), Residual(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, KINDS),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(300):
        total = torch.zeros(())
        for x, kind in loader:
            loss = nn.functional.cross_entropy(model(x), kind)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        print(f"epoch {epoch}: {total.item() / len(loader):.4f}", flush=True)


if __name__ == "__main__":
    main()
