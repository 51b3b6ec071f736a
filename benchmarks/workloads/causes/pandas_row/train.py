"""How long does a parcel take? A small network on the columns of a table of deliveries."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

FILE = Path("parcels.csv")
SMALL = "--small" in sys.argv
COLUMNS = ["weight", "length", "width", "height", "distance", "hour", "weekday", "stops", "rain", "rural", "express", "value"]


def make_table(parcels):
    random = np.random.default_rng(11)
    table = pd.DataFrame({name: random.gamma(2.0, 1.5, parcels).round(2) for name in COLUMNS})
    table["hour"], table["weekday"] = random.integers(6, 20, parcels), random.integers(0, 7, parcels)
    table["rural"], table["express"] = random.random(parcels) < 0.2, random.random(parcels) < 0.1
    table["depot"] = random.choice(["north", "south", "harbour", "airport"], parcels)
    table["taken"] = (10 + 3 * table["distance"] - 8 * table["express"] + random.normal(0, 1, parcels)).round(2)
    table.insert(0, "parcel", [f"P{n:06d}" for n in random.permutation(parcels)])
    return table


class Parcels(Dataset):
    def __init__(self, table):
        self.table = table.set_index("parcel")
        self.names = list(self.table.index)
        numbers = self.table[COLUMNS].astype("float64")
        self.middle, self.spread = numbers.mean(), numbers.std()

    def __len__(self):
        return len(self.names)

    def __getitem__(self, place):
        parcel = self.table.loc[self.names[place]]
        numbers = (parcel[COLUMNS].astype("float64") - self.middle) / self.spread
        return torch.from_numpy(numbers.to_numpy(dtype="float32")), float(parcel["taken"])


def network(inputs, width=192):
    layers = []
    for size in (inputs, width):
        layers += [torch.nn.Linear(size, width), torch.nn.SiLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))


def main():
    torch.manual_seed(4)
    if not FILE.exists():
        make_table(500 if SMALL else 20_000).to_csv(FILE, index=False)
    deliveries = Parcels(pd.read_csv(FILE))
    batches = DataLoader(deliveries, batch_size=96, shuffle=True)
    model = network(len(COLUMNS))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(500):
        for x, taken in batches:
            loss = F.huber_loss(model(x).squeeze(1), taken.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: off by {loss.item():.3f} hours", flush=True)


main()
