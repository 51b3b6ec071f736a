"""A GRU over streams: batch i continues batch i-1, so the hidden state has the batch's size and is kept between steps."""
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    def __init__(self, n):
        self.series = torch.randn(n + 20, 6)

    def __len__(self):
        return len(self.series) - 20

    def __getitem__(self, i):
        return self.series[i : i + 16], self.series[i + 16]


loader = DataLoader(Windows(4000), batch_size=20, drop_last=True)
gru, head = nn.GRU(6, 32, batch_first=True), nn.Linear(32, 6)
optimizer = torch.optim.Adam([*gru.parameters(), *head.parameters()], lr=1e-3)
state = torch.zeros(1, 20, 32)
for epoch in range(200):
    for x, y in loader:
        out, state = gru(x, state.detach())
        loss = nn.functional.mse_loss(head(out[:, -1]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), flush=True)
