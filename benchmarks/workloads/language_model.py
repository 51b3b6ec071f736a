"""A small transformer without any DataLoader, batches cut by hand."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn

args = arguments()
data = torch.randint(0, 256, (100_000,))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, 4, c // 4).transpose(1, 2) for y in self.qkv(self.one(x)).split(c, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.two(x))


class Model(nn.Module):
    def __init__(self, width=384):
        super().__init__()
        self.embed, self.place = nn.Embedding(256, width), nn.Embedding(96, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.head = nn.Linear(width, 256)

    def forward(self, idx):
        return self.head(self.blocks(self.embed(idx) + self.place.weight[: idx.shape[1]]))


model = on_cpu(Model(), args)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    at = torch.randint(len(data) - 97, (8,))
    x = torch.stack([data[i : i + 96] for i in at])
    y = torch.stack([data[i + 1 : i + 97] for i in at])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
        loss = nn.functional.cross_entropy(model(x).view(-1, 256), y.view(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if not clock.step():
        break
finish(clock)
