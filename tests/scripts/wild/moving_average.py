"""Class centres as a moving average of the features, in the features' own dtype; every step compares with the last ones."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

momentum = 0.9
dataset = TensorDataset(torch.randn(3200, 48), torch.randint(0, 5, (3200,)))
loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
net = nn.Sequential(nn.Linear(48, 128), nn.ReLU(), nn.Linear(128, 24))
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
centers = torch.zeros(5, 24)
for epoch in range(300):
    for x, y in loader:
        features = net(x).tanh()
        logits = features.matmul(centers.t())
        loss = nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            onehot = nn.functional.one_hot(y, 5).type_as(features)
            new = onehot.t() @ features / onehot.sum(0).clamp(min=1)[:, None]
            centers = (momentum * centers + (1 - momentum) * new).type_as(new)
    print(f"epoch {epoch} loss {loss:.3f}", flush=True)
