"""Texts of different lengths, padded by a collate function, through an embedding and a bidirectional GRU."""

import torch
from common import arguments, finish, on_cpu, run_for
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

args = arguments()


class Texts(Dataset):
    def __init__(self, count=4000):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(20, 60, (count,), generator=generator)
        self.texts = [" ".join(f"w{i}" for i in torch.randint(0, 5000, (n,), generator=generator).tolist()) for n in lengths]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        words = self.texts[index].split()
        return torch.tensor([1 + int(word[1:]) for word in words]), int(len(words) > 40)


def collate(samples):
    texts, labels = zip(*samples, strict=True)
    return pad_sequence(texts, batch_first=True), torch.tensor(labels)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5001, 128, padding_idx=0)
        self.rnn = nn.GRU(128, 128, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(256, 2))

    def forward(self, x):
        states, _ = self.rnn(self.embed(x))
        return self.head(states.mean(1))


loader = DataLoader(Texts(), batch_size=32, shuffle=True, collate_fn=collate, num_workers=args.workers,
                    persistent_workers=args.workers > 0)
model = on_cpu(Classifier(), args)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **args.implementation)
clock = run_for(args.seconds)
while clock.running():
    for x, y in loader:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not clock.step():
            break
finish(clock)
