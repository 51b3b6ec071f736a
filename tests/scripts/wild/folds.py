"""Cross-validation: a model and an optimizer for every fold, and a loader made anew for each in every epoch."""
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

FOLDS = 5
dataset = TensorDataset(torch.randn(6000, 16), torch.randn(6000, 1))
models = [nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(FOLDS)]
optimizers = [torch.optim.Adam(model.parameters(), lr=1e-3) for model in models]


def train(model, optimizer, loader):
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.05)


for epoch in range(200):
    order = torch.randperm(len(dataset))
    for fold in range(FOLDS):
        ids = torch.cat([part for place, part in enumerate(order.chunk(FOLDS)) if place != fold])
        loader = DataLoader(dataset, batch_size=128, sampler=SubsetRandomSampler(ids.tolist()))
        train(models[fold], optimizers[fold], loader)
    print(epoch, flush=True)
