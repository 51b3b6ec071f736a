"""nanoGPT's way: no DataLoader, globals are the configuration, forty evaluation forwards before step 1."""
import sys

import torch
from torch import nn

batch_size = 8
block_size = 32
n_embd = 32
max_iters = 100000
eval_iters = 20
config = {k: v for k, v in globals().items() if isinstance(v, int | float | str) and not k.startswith("_")}
assert sorted(config) == ["batch_size", "block_size", "eval_iters", "max_iters", "n_embd"], config
assert __name__ == "__main__"
assert sys.argv[0].endswith("language_model.py")

data = torch.randint(0, 64, (4096,))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(64, n_embd)
        self.layer = nn.TransformerEncoderLayer(n_embd, 4, 64, batch_first=True)
        self.head = nn.Linear(n_embd, 64)

    def train(self, mode=True, note=None):  # another signature than nn.Module's
        return super().train(mode)

    def forward(self, idx, targets):
        logits = self.head(self.layer(self.embed(idx)))
        return logits, nn.functional.cross_entropy(logits.view(-1, 64), targets.reshape(-1))


def get_batch():
    at = torch.randint(len(data) - block_size - 1, (batch_size,))
    return torch.stack([data[i : i + block_size] for i in at]), torch.stack([data[i + 1 : i + block_size + 1] for i in at])


@torch.no_grad()
def estimate_loss():
    model.eval()
    losses = [model(*get_batch())[1].item() for _ in range(2 * eval_iters)]
    model.train()
    return sum(losses) / len(losses)


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(max_iters):
    if step % 200 == 0:
        print(step, estimate_loss())
    _, loss = model(*get_batch())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
