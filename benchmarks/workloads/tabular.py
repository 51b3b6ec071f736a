"""Rows of a table: embeddings of categories, a wide network with batch normalisation, short steps."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

args = arguments()
rows = 60_000
data = TensorDataset(torch.randn(rows, 40), torch.randint(0, 200, (rows, 12)), torch.rand(rows))
loader = DataLoader(data, batch_size=256, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.categories = nn.ModuleList(nn.Embedding(200, 16) for _ in range(12))
        self.layers = nn.Sequential(
            nn.Linear(40 + 12 * 16, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 1),
        )

    def forward(self, numbers, kinds):
        seen = [embed(kinds[:, place]) for place, embed in enumerate(self.categories)]
        return self.layers(torch.cat([numbers, *seen], 1)).squeeze(1)


model = on_cpu(Network(), args)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5, **args.implementation)
clock = run_for(args.seconds)
total = 0.0
while clock.running():
    for numbers, kinds, target in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.mse_loss(model(numbers, kinds), target)
        loss.backward()
        optimizer.step()
        total += loss.item()
        if not clock.step():
            break
finish(clock)
