"""Tells birds by their song: a new classifier on top of an encoder that was trained before and stays as it is."""

import os
import sys

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

SMALL = "--small" in sys.argv
BIRDS = 8


def conv(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Encoder(nn.Module):
    """Spectrograms to vectors."""

    def __init__(self, widths=(32, 48, 64, 96, 128)):
        super().__init__()
        sizes = zip((1, *widths), widths, strict=False)
        self.layers = nn.Sequential(*[layer for a, b in sizes for layer in (conv(a, b, 2), conv(b, b, 1))])

    def forward(self, x):
        return self.layers(x).mean((2, 3))


class BirdClassifier(nn.Module):
    def __init__(self, weights=None):
        super().__init__()
        self.encoder = Encoder()
        if weights and os.path.exists(weights):
            self.encoder.load_state_dict(torch.load(weights))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, BIRDS))

    def train(self, mode=True):
        super().train(mode)
        self.encoder.eval()  # the encoder is frozen
        return self

    def forward(self, spectrogram):
        return self.head(self.encoder(spectrogram))


def songs(count, size):
    sky = torch.Generator().manual_seed(19)
    bird = torch.randint(0, BIRDS, (count,), generator=sky)
    pitch = torch.arange(size)[None, :, None] - (bird * size // BIRDS)[:, None, None]
    song = torch.exp(-(pitch**2) / 20.0) + 0.3 * torch.randn(count, size, size, generator=sky)
    return TensorDataset(song[:, None], bird)


def main():
    torch.manual_seed(3)
    loader = DataLoader(songs(60 if SMALL else 1200, 64), batch_size=20, shuffle=True)
    model = BirdClassifier("encoder.pt")
    model.train()
    optimizer = optim.AdamW(model.head.parameters(), lr=3e-3)
    for epoch in range(300):
        right = 0
        for spectrogram, bird in loader:
            scores = model(spectrogram)
            loss = nn.functional.cross_entropy(scores, bird)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right += int((scores.argmax(1) == bird).sum())
        print(f"epoch {epoch}: {right / len(loader.dataset):.3f}", flush=True)


if __name__ == "__main__":
    main()
