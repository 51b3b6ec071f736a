"""A small U-Net on pictures that torchvision's transforms augment together with their masks."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

args = arguments()
transform = v2.Compose([
    v2.RandomResizedCrop(96, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3),
    v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.float32, "others": None}, scale=True),
])


class Shapes(Dataset):
    def __len__(self):
        return 2000

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 160, 160), dtype=torch.uint8, generator=generator)
        top, left = torch.randint(0, 100, (2,), generator=generator).tolist()
        mask = torch.zeros(1, 160, 160, dtype=torch.uint8)
        mask[:, top : top + 50, left : left + 50] = 1
        return transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


def double(inside, outside):
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.down1, self.down2, self.bottom = double(3, width), double(width, 2 * width), double(2 * width, 4 * width)
        self.up2, self.up1 = double(6 * width, 2 * width), double(3 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        deep = self.bottom(nn.functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([nn.functional.interpolate(deep, scale_factor=2), two], 1))
        return self.head(self.up1(torch.cat([nn.functional.interpolate(two, scale_factor=2), one], 1)))


loader = DataLoader(Shapes(), batch_size=8, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
model = on_cpu(UNet(), args)
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, **args.implementation)
criterion = nn.BCEWithLogitsLoss()
clock = run_for(args.seconds)
while clock.running():
    for images, masks in loader:
        if args.channels_last:
            images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = criterion(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not clock.step():
            break
finish(clock)
