"""One-cycle policy stepped after every batch; the script knows at which step it is by asking the schedule."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

epochs = 12
loader = DataLoader(TensorDataset(torch.randn(1600, 32), torch.randint(0, 4, (1600,))), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, epochs=epochs, steps_per_epoch=len(loader))
rates, lowest = [], 1.0
for epoch in range(epochs):
    for i, (x, y) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        left = 1 - scheduler.last_epoch / scheduler.total_steps
        lowest = min(lowest, left**0.5)
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    print(f"epoch {epoch} lr {rates[-1]:.2e} lowest {lowest:.3f}", flush=True)
