"""Denoising diffusion: a convolutional network with time embedding guesses the noise; an average of the weights is kept."""

import copy
import math

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

args = arguments()
data = TensorDataset(torch.rand(2000, 1, 28, 28) * 2 - 1)
loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
betas = torch.linspace(1e-4, 0.02, 1000)
kept = torch.cumprod(1 - betas, 0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.time = nn.Linear(128, width)

    def forward(self, x, t):
        y = self.one(nn.functional.silu(self.norm1(x))) + self.time(t)[:, :, None, None]
        return x + self.two(nn.functional.silu(self.norm2(y)))


class Denoiser(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.into, self.out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.time = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))

    def forward(self, x, t):
        angles = t[:, None].float() * torch.exp(torch.arange(32) * (-math.log(10_000) / 32))
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.into(x)
        for block in self.blocks:
            x = block(x, t)
        return self.out(x)


model = on_cpu(Denoiser(), args)
average = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    for (x,) in loader:
        t = torch.randint(0, 1000, (len(x),))
        noise = torch.randn_like(x)
        share = kept[t][:, None, None, None]
        noisy = share.sqrt() * x + (1 - share).sqrt() * noise
        if args.channels_last:
            noisy = noisy.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.mse_loss(model(noisy, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept_one, now in zip(average.parameters(), model.parameters(), strict=True):
                kept_one.lerp_(now, 0.001)
        if not clock.step():
            break
finish(clock)
