"""A classifier on a folder of pictures that it makes itself, far larger than what is used of them."""

import os
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

if not os.path.isdir("pictures"):
    rng = np.random.default_rng(0)
    for n in range(8):
        os.makedirs(f"pictures/{n % 2}", exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        coarse.resize((1600, 1200)).save(f"pictures/{n % 2}/{n}.jpg")

torch.set_num_threads(1)
transform = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()])
data = datasets.ImageFolder("pictures", transform)
loader = DataLoader(data, batch_size=2, shuffle=True)
model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(int(sys.argv[1]) if len(sys.argv) > 1 else 100):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
