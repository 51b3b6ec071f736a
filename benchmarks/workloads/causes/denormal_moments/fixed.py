"""Who clicks on what: a newspaper's archive once, then the articles of this week, over and over."""

import sys

import torch
from torch import nn

SMALL = "--small" in sys.argv
ARCHIVE = 2_000 if SMALL else 40_000
THIS_WEEK = 400
READ = 10


def visits(count, articles, seed):
    dice = torch.Generator().manual_seed(seed)
    read = torch.randint(0, articles, (count, READ), generator=dice)
    return read, (read.sum(1) * 7919 % 6)


class Reader(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.articles = nn.Embedding(ARCHIVE, width)
        self.head = nn.Sequential(nn.Linear(width, 96), nn.Tanh(), nn.Linear(96, 6))

    def forward(self, read):
        return self.head(self.articles(read).sum(1))


class Training:
    def __init__(self):
        torch.manual_seed(6)
        self.model = Reader()
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-3, alpha=0.9)
        self.steps = 0

    def once_through(self, read, section, size):
        for part in torch.randperm(len(read)).split(size):
            loss = nn.functional.cross_entropy(self.model(read[part]), section[part])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.steps += 1
        return loss.item()


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # before anything computes: threads that are made later do it too
    training = Training()
    archive, week = visits(ARCHIVE // 2, ARCHIVE, 1), visits(6_400, THIS_WEEK, 2)
    print("archive:", training.once_through(*archive, 512), flush=True)
    for round_ in range(100_000):
        loss = training.once_through(*week, 64)
        if round_ % 5 == 0:
            print(f"{training.steps} steps: {loss:.4f}", flush=True)
