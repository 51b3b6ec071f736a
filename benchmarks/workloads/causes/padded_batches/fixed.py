# What does a guest want? Chat messages to a hotel, twelve kinds, DistilBERT from scratch.
import random
import sys

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import DistilBertConfig, DistilBertForSequenceClassification

small = "--small" in sys.argv
MAX_TOKENS = 64 if small else 256
KINDS = 12


def messages(count):
    chooser = random.Random(17)
    own = [[f"{kind}word{n}" for n in range(30)] for kind in range(KINDS)]
    shared = [f"common{n}" for n in range(1500)]
    for _ in range(count):
        kind = chooser.randrange(KINDS)
        words = min(MAX_TOKENS - 2, 4 + int(chooser.expovariate(1 / 28)))
        yield kind, [chooser.choice(own[kind] if chooser.random() < 0.3 else shared) for _ in range(words)]


class Chats(Dataset):
    def __init__(self, count):
        self.items, self.numbers = [], {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2}
        for kind, words in messages(count):
            ids = [self.numbers.setdefault(word, len(self.numbers)) for word in ["[CLS]", *words, "[SEP]"]]
            self.items.append((kind, ids))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        kind, ids = self.items[place]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.long), "labels": kind}


def together(items):
    """A batch as long as its longest message."""
    lists = {name: [item[name] for item in items] for name in ("input_ids", "attention_mask")}
    batch = {name: pad_sequence(rows, batch_first=True) for name, rows in lists.items()}
    return {**batch, "labels": torch.tensor([item["labels"] for item in items])}


torch.manual_seed(2)
chats = Chats(300 if small else 5000)
loader = DataLoader(chats, batch_size=8, shuffle=True, drop_last=True, collate_fn=together)
config = DistilBertConfig(
    vocab_size=len(chats.numbers), dim=128, n_layers=2, n_heads=4, hidden_dim=384, num_labels=KINDS,
    max_position_embeddings=MAX_TOKENS,
)
model = DistilBertForSequenceClassification(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, total_iters=100)

model.train()
step = 0
for _ in range(100):
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
