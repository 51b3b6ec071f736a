"""A plain loop over a picture-like data set, as tutorials write it."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
data = TensorDataset(torch.randn(512, 3, 16, 16), torch.randint(0, 10, (512,)))
loader = DataLoader(data, batch_size=32, num_workers=0)

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
criterion = nn.CrossEntropyLoss()

# plain SGD
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(1000):
    for images, labels in loader:
        optimizer.zero_grad()

        # forward
        output = model(images)
        loss = criterion(output, labels)

        loss.backward()
        optimizer.step()
        print("loss", loss.item())
