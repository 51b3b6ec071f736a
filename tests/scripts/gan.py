"""Two optimizers, one of them born in the first iteration; three backwards; Sigmoid and BCELoss."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

netG = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32))
netD = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
criterion = nn.BCELoss()
optG = None
optD = torch.optim.Adam(netD.parameters(), lr=1e-4)
loader = DataLoader(TensorDataset(torch.randn(640, 32)), batch_size=32)
for epoch in range(10000):
    for (real,) in loader:
        if optG is None:
            optG = torch.optim.Adam(netG.parameters(), lr=1e-4)
        netD.zero_grad()
        errD_real = criterion(netD(real), torch.ones(len(real), 1))
        errD_real.backward()
        fake = netG(torch.randn(len(real), 8))
        errD_fake = criterion(netD(fake.detach()), torch.zeros(len(real), 1))
        errD_fake.backward()
        optD.step()
        netG.zero_grad()
        errG = criterion(netD(fake), torch.ones(len(real), 1))
        errG.backward()
        optG.step()
        _ = errD_real.item() + errD_fake.item() + errG.item()
