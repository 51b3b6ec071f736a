"""Four batches a step: a residual network, gradients accumulated, clipped, one optimizer call."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATE = 4
args = arguments()
data = TensorDataset(torch.randn(1024, 3, 24, 24), torch.randint(0, 10, (1024,)))
loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


model = on_cpu(
    nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), *(Residual(64) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    ),
    args,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    for number, (x, y) in enumerate(loader, 1):
        if args.channels_last:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.cross_entropy(model(x), y) / ACCUMULATE
        loss.backward()
        if number % ACCUMULATE == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if not clock.step():
                break
finish(clock)
