"""Two networks, two optimizers, three backwards a step."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

args = arguments()
data = TensorDataset(torch.rand(512, 3, 32, 32) * 2 - 1)
loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
G = on_cpu(
    nn.Sequential(
        nn.ConvTranspose2d(64, 64, 8), nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32),
        nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    ),
    args,
)
D = on_cpu(
    nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(64 * 8 * 8, 1),
    ),
    args,
)
bce = nn.BCEWithLogitsLoss()
optD, optG = (torch.optim.Adam(m.parameters(), 2e-4, **args.implementation) for m in (D, G))
clock = run_for(args.seconds)


def cast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16)


while clock.running():
    for (real,) in loader:
        if args.channels_last:
            real = real.to(memory_format=torch.channels_last)
        D.zero_grad()
        with cast():
            loss = bce(D(real), torch.ones(len(real), 1))
        loss.backward()
        with cast():
            fake = G(torch.randn(len(real), 64, 1, 1))
            loss = bce(D(fake.detach()), torch.zeros(len(real), 1))
        loss.backward()
        optD.step()
        G.zero_grad()
        with cast():
            loss = bce(D(fake), torch.ones(len(real), 1))
        loss.backward()
        optG.step()
        if not clock.step():
            break
finish(clock)
