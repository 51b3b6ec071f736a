"""Warns before a pump fails, from the last minute of its sensors."""

import sys

import torch
from torch import nn

HIDDEN = 48
SENSORS = 9
MIXED_PRECISION = True
SMALL = "--small" in sys.argv


class Pumps(torch.utils.data.Dataset):
    def __init__(self, count, seconds=60):
        dice = torch.Generator().manual_seed(40)
        self.fails = (torch.rand(count, generator=dice) < 0.3).float()
        drift = torch.linspace(0, 1, seconds)[None, :, None] * self.fails[:, None, None]
        self.readings = torch.randn(count, seconds, SENSORS, generator=dice) + drift

    def __len__(self):
        return len(self.fails)

    def __getitem__(self, place):
        return self.readings[place], self.fails[place]


class Warner(nn.Module):
    def __init__(self):
        super().__init__()
        self.smooth = nn.Linear(SENSORS, HIDDEN)
        self.follow = nn.GRU(HIDDEN, HIDDEN, num_layers=2, batch_first=True)
        self.say = nn.Linear(HIDDEN, 1)

    def forward(self, readings):
        states, _ = self.follow(torch.tanh(self.smooth(readings)))
        return self.say(states[:, -1]).squeeze(1)


class Fitter:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss(self, readings, fails):
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=MIXED_PRECISION):
            scores = self.model(readings.to(self.device))
        return nn.functional.binary_cross_entropy_with_logits(scores.float(), fails.to(self.device))

    def epoch(self):
        total = 0.0
        for readings, fails in self.loader:
            loss = self.loss(readings, fails)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
            self.optimizer.step()
            total += loss.item()
        return total / len(self.loader)


if __name__ == "__main__":
    torch.manual_seed(9)
    loader = torch.utils.data.DataLoader(Pumps(120 if SMALL else 6000), batch_size=24, shuffle=True)
    fitter = Fitter(Warner(), loader)
    for number in range(500):
        print(f"epoch {number} loss {fitter.epoch():.4f}", flush=True)
