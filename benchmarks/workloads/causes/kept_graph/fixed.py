"""Takes the noise out of recordings of a single voice."""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from tracking import Tracker

SMALL = "--small" in sys.argv
SAMPLES = 4096


class Recordings(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, jump = (worker.id, worker.num_workers) if worker else (0, 1)
        time = torch.linspace(0, 1, SAMPLES)
        for number in range(first, self.count, jump):
            dice = torch.Generator().manual_seed(number)
            tones = torch.randint(20, 400, (3, 1), generator=dice)
            voice = torch.sin(6.283 * tones * time).mean(0)
            yield voice + 0.2 * torch.randn(SAMPLES, generator=dice), voice


class Cleaner(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, width, 9, padding=4), nn.PReLU(), nn.Conv1d(width, width, 9, padding=8, dilation=2), nn.PReLU(),
            nn.Conv1d(width, 1, 9, padding=4),
        )

    def forward(self, noisy):
        return noisy - self.layers(noisy[:, None])[:, 0]


def spectral_distance(one, other):
    """How far the spectra of two recordings are apart."""
    one, other = torch.fft.rfft(one).abs(), torch.fft.rfft(other).abs()
    return (one.clamp(min=1e-5).log10() - other.clamp(min=1e-5).log10()).square().mean().sqrt()


def main():
    torch.manual_seed(0)
    loader = DataLoader(Recordings(160 if SMALL else 36_000), batch_size=12, num_workers=2)
    model = Cleaner()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tracker = Tracker()
    for epoch in range(20):
        tracker.clear()
        for step, (noisy, voice) in enumerate(loader):
            cleaned = model(noisy)
            loss = F.l1_loss(cleaned, voice)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracker.add(loss=loss.item(), spectrum=spectral_distance(cleaned.detach(), voice))
            if step % 200 == 0:
                print(f"{epoch}.{step}: loss {tracker.mean('loss'):.4f} spectrum {tracker.mean('spectrum'):.3f}", flush=True)


if __name__ == "__main__":
    main()
