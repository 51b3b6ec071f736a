"""Compute-bound: a convolutional network on tensors in memory."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

args = arguments()
data = TensorDataset(torch.randn(512, 3, 32, 32), torch.randint(0, 10, (512,)))
loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
layers = []
for before, after in ((3, 64), (64, 128), (128, 128)):
    layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
model = on_cpu(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)), args)
optimizer = torch.optim.AdamW(model.parameters(), **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    for x, y in loader:
        if args.channels_last:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not clock.step():
            break
finish(clock)
