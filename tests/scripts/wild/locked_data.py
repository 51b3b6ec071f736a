"""One file for all workers: a lock that they share is held while a sample is read."""
import multiprocessing
import tempfile

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class OneFile(Dataset):
    def __init__(self, n):
        self.n = n
        self.lock = multiprocessing.Lock()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        for i in range(n):
            self.file.write(bytes([i % 250] * 256))
        self.file.flush()

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        with self.lock:
            self.file.seek(256 * i)
            values = bytearray(self.file.read(256))
            for _ in range(20):
                values = bytearray(reversed(values))
        return torch.frombuffer(values, dtype=torch.uint8).float() / 255


if __name__ == "__main__":
    loader = DataLoader(OneFile(4000), batch_size=32, shuffle=True, num_workers=2)
    model = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 256))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(1000):
        for x in loader:
            loss = nn.functional.mse_loss(model(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item(), flush=True)
