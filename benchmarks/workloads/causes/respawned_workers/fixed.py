"""Which amino acid is missing? Fragments of proteins, each with its neighbours in space."""

import random
import sys
from dataclasses import dataclass, field

import torch
import torch.multiprocessing
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

SMALL = "--small" in sys.argv
ACIDS, LENGTH = 20, 15


@dataclass
class Residue:
    acid: int
    angles: tuple
    near: list = field(default_factory=list)


class Fragments(Dataset):
    def __init__(self, count):
        dice = random.Random(3)
        self.fragments = []
        for _ in range(count):
            chain = [Residue(dice.randrange(ACIDS), (dice.random(), dice.random())) for _ in range(LENGTH)]
            for place, residue in enumerate(chain):
                residue.near = [dice.randrange(LENGTH), (place * 7) % LENGTH]
            self.fragments.append(chain)

    def __len__(self):
        return len(self.fragments)

    def __getitem__(self, place):
        chain = self.fragments[place]
        acids = torch.tensor([residue.acid for residue in chain])
        angles = torch.tensor([residue.angles for residue in chain])
        hidden = place % LENGTH
        wanted = acids[hidden].clone()
        acids[hidden] = ACIDS
        return acids, angles, wanted


class Filler(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.acids = nn.Embedding(ACIDS + 1, width)
        self.angles = nn.Linear(2, width)
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(LENGTH * width, 256), nn.GELU(), nn.Linear(256, ACIDS))

    def forward(self, acids, angles):
        return self.mix(self.acids(acids) + self.angles(angles))


def seed_worker(number):
    random.seed(1000 + number)


LOADING = {
    "batch_size": 64,
    "num_workers": 1 if SMALL else 2,
    "persistent_workers": True,
    "worker_init_fn": seed_worker,
    "drop_last": True,
}


def main():
    torch.multiprocessing.set_start_method("spawn")  # forked workers and the driver did not get on
    torch.manual_seed(5)
    data = Fragments(300 if SMALL else 8_000)
    sampler = RandomSampler(data, num_samples=192 if SMALL else 80 * 64)  # a short epoch, then a line of the log
    loader = DataLoader(data, sampler=sampler, **LOADING)
    model = Filler()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1000):
        right = 0
        for acids, angles, wanted in loader:
            scores = model(acids, angles)
            loss = nn.functional.cross_entropy(scores, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += (scores.argmax(1) == wanted).sum().item()
        print(f"epoch {epoch}: {right / (64 * len(loader)):.1%} right", flush=True)


if __name__ == "__main__":
    main()
