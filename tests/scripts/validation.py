"""Training and validation loaders, model.forward called directly, a one-cycle schedule of just so many steps."""
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def loader(n, shuffle):
    return DataLoader(TensorDataset(torch.randn(n, 1, 12, 12), torch.randint(0, 3, (n,))), batch_size=16, shuffle=shuffle)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(400, 3)

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1))


train, valid = loader(800, True), loader(160, False)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
epochs = 24
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(train))
for epoch in range(epochs):
    for x, y in train:
        loss = nn.functional.cross_entropy(model.forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        print(epoch, sum((model.forward(x).argmax(1) == y).sum().item() for x, y in valid))
    time.sleep(0.15)  # a validation of some length: the script lasts for seconds, its epochs of training do not
