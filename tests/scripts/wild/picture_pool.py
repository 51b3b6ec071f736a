"""A generator and a discriminator, which is also shown pictures of long ago, as CycleGAN's is."""
import random

import torch
from torch import nn

generator = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
discriminator = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
of_generator = torch.optim.Adam(generator.parameters(), lr=1e-4)
of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=1e-4)
pool = []


def from_pool(picture):
    if len(pool) < 50:
        pool.append(picture)
        return picture
    if random.random() < 0.5:
        return picture
    place = random.randrange(len(pool))
    old, pool[place] = pool[place], picture
    return old


for step in range(100_000):
    real = torch.rand(1, 3, 24, 24)
    fake = generator(real)
    of_generator.zero_grad()
    (discriminator(fake) - 1).pow(2).mean().backward()
    of_generator.step()
    of_discriminator.zero_grad()
    loss = (discriminator(real) - 1).pow(2).mean() + discriminator(from_pool(fake.detach())).pow(2).mean()
    loss.backward()
    of_discriminator.step()
    if step % 1000 == 0:
        print(step, loss.item(), flush=True)
