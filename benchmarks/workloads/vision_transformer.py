"""A vision transformer from torchvision on small pictures, warm-up and cosine schedule."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer

args = arguments()
data = TensorDataset(torch.randn(2000, 3, 32, 32), torch.randint(0, 10, (2000,)))
loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True, num_workers=args.workers,
                    persistent_workers=args.workers > 0)
model = on_cpu(VisionTransformer(image_size=32, patch_size=4, num_layers=3, num_heads=3, hidden_dim=192, mlp_dim=768,
                                 num_classes=10), args)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, **args.implementation)
warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=100)
scheduler = torch.optim.lr_scheduler.SequentialLR(
    optimizer, [warm, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100_000)], [100])
clock = run_for(args.seconds)
while clock.running():
    for images, labels in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = criterion(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if not clock.step():
            break
finish(clock)
