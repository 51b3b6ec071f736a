"""Where is the lung? A small vision transformer on slices; its settings come from the large one."""

import sys
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

SMALL = "--small" in sys.argv


@dataclass(frozen=True)
class Settings:
    size: int = 40
    patch: int = 4
    width: int = 128
    depth: int = 2 if SMALL else 4
    heads: int = 4
    micro_batch: int = 4
    batches_a_step: int = 2
    save_memory: bool = True


class Block(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.look = nn.MultiheadAttention(settings.width, settings.heads, batch_first=True)
        self.think = nn.Sequential(nn.Linear(settings.width, 3 * settings.width), nn.GELU(),
                                   nn.Linear(3 * settings.width, settings.width))
        self.before, self.between = nn.LayerNorm(settings.width), nn.LayerNorm(settings.width)

    def forward(self, x):
        y = self.before(x)
        x = x + self.look(y, y, y, need_weights=False)[0]
        return x + self.think(self.between(x))


class Segmenter(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.patches = nn.Conv2d(1, settings.width, settings.patch, settings.patch)
        self.places = nn.Parameter(torch.zeros(1, (settings.size // settings.patch) ** 2, settings.width))
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.mask = nn.Linear(settings.width, settings.patch**2)

    def forward(self, slices):
        x = self.patches(slices).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.settings.save_memory else block(x)
        return self.mask(x)


def slices(settings, generator):
    grid = torch.linspace(-1, 1, settings.size)
    centre = torch.rand(settings.micro_batch, 2, 1, 1, generator=generator) - 0.5
    inside = ((grid[:, None] - centre[:, 0]) ** 2 + (grid - centre[:, 1]) ** 2 < 0.2).float()
    picture = inside + 0.5 * torch.randn(inside.shape, generator=generator)
    masks = nn.functional.unfold(inside[:, None], settings.patch, stride=settings.patch).transpose(1, 2)
    return picture[:, None], masks


def train(settings, steps=100_000):
    torch.manual_seed(8)
    generator = torch.Generator().manual_seed(8)
    model = Segmenter(settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(1, steps + 1):
        for _ in range(settings.batches_a_step):
            picture, masks = slices(settings, generator)
            loss = nn.functional.binary_cross_entropy_with_logits(model(picture), masks)
            (loss / settings.batches_a_step).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    train(Settings())
