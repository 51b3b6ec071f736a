"""Input-bound: a folder of JPEGs, PIL, a small convolutional network."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

args = arguments("--data")
transform = transforms.Compose([transforms.RandomResizedCrop(96), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
dataset = datasets.ImageFolder(args.data, transform)
loader = DataLoader(
    dataset, batch_size=8, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0
)
model = on_cpu(
    nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ),
    args,
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, **args.implementation)
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
