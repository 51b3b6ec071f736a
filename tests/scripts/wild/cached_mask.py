"""Attention with a padding mask that is made once and made anew only when a longer batch comes."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

tokens = torch.randint(0, 100, (2000, 12))
loader = DataLoader(TensorDataset(tokens), batch_size=10, shuffle=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(100, 32)
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 100)
        self.mask = None

    def forward(self, x):
        if self.mask is None or self.mask.size(0) < x.size(0):
            self.mask = torch.ones(12, 12, dtype=torch.bool).triu(1).repeat(x.size(0), 1, 1)
        q, k, v = self.qkv(self.emb(x)).chunk(3, -1)
        scores = (q @ k.transpose(1, 2) / 32**0.5).masked_fill(self.mask, -1e4)
        return self.out(scores.softmax(-1) @ v)


model = Block()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
for epoch in range(200):
    for (x,) in loader:
        logits = model(x)
        loss = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 100), x[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), flush=True)
