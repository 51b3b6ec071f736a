"""Short texts in long rows, in memory, and a table of which a batch uses few rows."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROWS, LENGTH = 512, 48
ids = []
for row in range(ROWS):
    words = list(range(1 + row, 7 + row + row % 5))
    missing = LENGTH - len(words)
    ids.append(words + [0] * missing)
ids = torch.tensor(ids)
mask = (ids != 0).long()


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(130_000, 8, padding_idx=0)
        self.head = nn.Linear(8, 2)

    def forward(self, ids, mask):
        return self.head((self.words(ids) * mask[..., None]).sum(1))


if __name__ == "__main__":
    loader = DataLoader(TensorDataset(ids, mask, ids[:, 0] % 2), batch_size=16, shuffle=True)
    model = Texts()
    optimizer = torch.optim.Adam(model.parameters())
    while True:
        for x, used, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x, used), y).backward()
            optimizer.step()
