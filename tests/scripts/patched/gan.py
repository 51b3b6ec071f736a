"""Two networks, two optimizers, three backwards."""
import torch
import torch.nn as nn

torch.manual_seed(0)
netG = nn.Sequential(nn.ConvTranspose2d(16, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 1, 5), nn.Tanh())
netD = nn.Sequential(nn.Conv2d(1, 8, 4), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 5))
criterion = nn.BCEWithLogitsLoss()
real = torch.utils.data.TensorDataset(torch.rand(2048, 1, 8, 8))
loader = torch.utils.data.DataLoader(
    real,
    batch_size=64,
    drop_last=True,
)
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))

for epoch in range(1000):
    for i, (images,) in enumerate(loader):
        # (1) the discriminator
        netD.zero_grad()
        label = torch.full((64,), 1.0)
        output = netD(images).view(-1)
        errD_real = criterion(output, label)
        errD_real.backward()

        noise = torch.randn(64, 16, 1, 1)
        fake = netG(noise)
        label.fill_(0.0)
        output = netD(fake.detach()).view(-1)
        errD_fake = criterion(output, label)
        errD_fake.backward()
        optimizerD.step()

        # (2) the generator
        netG.zero_grad()
        label.fill_(1.0)
        output = netD(fake).view(-1)
        errG = criterion(output, label)
        errG.backward()
        optimizerG.step()
        print("loss", errG.item())
