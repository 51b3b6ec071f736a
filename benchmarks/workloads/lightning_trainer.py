"""Lightning's Trainer: a convolutional network on images made by a slow dataset."""

import logging
import warnings

import lightning
import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.utils.data import DataLoader, Dataset

args = arguments()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Waves(Dataset):
    def __len__(self):
        return 4096

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(3, 64, 64, generator=generator)
        for _ in range(6):
            x = torch.sin(x) + 0.1 * torch.roll(x, 1, -1)
        return x, index % 10


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = on_cpu(nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        ), args)

    def on_train_start(self):
        self.clock = run_for(args.seconds)

    def training_step(self, batch, index):
        x, y = batch
        if args.channels_last:
            x = x.to(memory_format=torch.channels_last)
        return nn.functional.cross_entropy(self.net(x), y)

    def on_train_batch_end(self, outputs, batch, index):
        if not self.clock.step():
            self.trainer.should_stop = True

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, **args.implementation)


model = Classifier()
loader = DataLoader(Waves(), batch_size=16, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
lightning.Trainer(
    max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, precision="bf16-mixed" if args.bf16 else "32-true",
).fit(model, loader)
finish(model.clock)
