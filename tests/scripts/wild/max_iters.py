"""A small language model on random text, 200 iterations, as the first try of a tutorial."""
import torch
from torch import nn

max_iters = 200
eval_interval = 100
batch_size, block_size = 32, 64
data = torch.randint(0, 65, (100_000,))


def get_batch():
    ix = torch.randint(len(data) - block_size, (batch_size,))
    return torch.stack([data[i : i + block_size] for i in ix]), torch.stack([data[i + 1 : i + block_size + 1] for i in ix])


model = nn.Sequential(nn.Embedding(65, 128), nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 65))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
iter_num = 0
while True:
    if iter_num % eval_interval == 0:
        print(f"iter {iter_num}", flush=True)
    X, Y = get_batch()
    loss = nn.functional.cross_entropy(model(X).view(-1, 65), Y.view(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    iter_num += 1
    if iter_num > max_iters:
        break
