"""makemore's way: batches by next(), the iterator made anew on StopIteration."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(256, 20), torch.randint(0, 5, (256,)))


class Infinite:
    def __init__(self, dataset):
        self.loader = DataLoader(dataset, batch_size=32, shuffle=True)
        self.iterator = iter(self.loader)

    def next(self):
        try:
            return next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            return next(self.iterator)


batches = Infinite(data)
model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))
optimizer = torch.optim.AdamW(model.parameters())
step = 0
while True:
    x, y = batches.next()
    loss = nn.functional.cross_entropy(model(x), y)
    model.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    step += 1
