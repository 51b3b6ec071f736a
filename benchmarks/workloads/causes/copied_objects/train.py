"""Finds lines of a server's log that do not belong there. The whole log is read once."""

import os
import random
import sys
import zlib

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

LOG = "access.log"
LINES = 2000 if "--small" in sys.argv else 700_000


def write_log():
    rng = random.Random(13)
    paths = ["/" + "/".join(f"{rng.getrandbits(20):x}" for _ in range(rng.randint(1, 4))) for _ in range(3000)]
    with open(LOG, "w") as out:
        for number in range(LINES):
            path, status = paths[int(rng.paretovariate(1.1)) % len(paths)], rng.choice((200, 200, 304, 404, 500))
            out.write(f"{number}\t{rng.getrandbits(32)}\t{path}\t{status}\t{rng.randrange(90000)}\n")


class Requests(Dataset):
    def __init__(self, path):
        self.requests = []
        with open(path) as log:
            for line in log:
                number, client, path, status, size = line.split("\t")
                self.requests.append([int(number), int(client), path, int(status), int(size)])

    def __len__(self):
        return len(self.requests)

    def __getitem__(self, place):
        number, client, path, status, size = self.requests[place]
        words = torch.zeros(8, dtype=torch.long)
        for n, part in enumerate(path.split("/")[1:9]):
            words[n] = zlib.crc32(part.encode()) % 4095 + 1
        numbers = torch.tensor([client / 2**32, status / 500, size / 9e4, number % 1000 / 1e3])
        return words, numbers


class Likelihood(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.words = nn.Embedding(4096, width, padding_idx=0)
        self.encode = nn.GRU(width, width, batch_first=True)
        self.predict = nn.Sequential(nn.Linear(width, 384), nn.ReLU(), nn.Linear(384, 4))

    def forward(self, words):
        return self.predict(self.encode(self.words(words))[0][:, -1])


def main():
    if not os.path.exists(LOG):
        write_log()
    torch.manual_seed(0)
    loader = DataLoader(Requests(LOG), batch_size=80, shuffle=True, num_workers=2)
    model = Likelihood()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for _ in range(10):
        for step, (words, numbers) in enumerate(loader):
            loss = (model(words) - numbers).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0:
                print(f"{step}/{len(loader)} {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
