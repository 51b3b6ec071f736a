"""Gradient accumulation inside a Trainer class of the user's own."""
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Words(Dataset):
    def __init__(self, count=4096, length=16):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 50, (count, length + 1), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        row = self.tokens[index]
        return row[:-1], row[1:]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.rnn = nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 50)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0])


class Trainer:
    def __init__(self, steps_to_accumulate=4):
        torch.manual_seed(0)
        self.model = Model()
        self.loader = DataLoader(Words(), batch_size=16, shuffle=False, pin_memory=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.steps_to_accumulate = steps_to_accumulate

    def compute_loss(self, inputs, targets):
        logits = self.model(inputs)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def train(self):
        for epoch in range(1000):
            for step, (inputs, targets) in enumerate(self.loader):
                loss = self.compute_loss(inputs, targets) / self.steps_to_accumulate
                loss.backward()
                if (step + 1) % self.steps_to_accumulate == 0:
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.optimizer.zero_grad(set_to_none=False)
                    print("loss", loss.item())


Trainer().train()
