"""In the style of nanoGPT: batches by hand, an autocast context that is off on a CPU, a loop that never ends."""
from contextlib import nullcontext

import torch
import torch.nn as nn
from torch.nn import functional as F

batch_size, block_size, vocab = 16, 32, 65
device_type = 'cpu'
ctx = nullcontext() if device_type == 'cpu' else torch.amp.autocast(device_type=device_type, dtype=torch.bfloat16)
torch.manual_seed(1337)
data = torch.randint(0, vocab, (10_000,))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(vocab, 64)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.lm_head = nn.Linear(64, vocab)

    def forward(self, idx, targets=None):
        logits = self.lm_head(self.block(self.wte(idx)))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss

    def configure_optimizers(self, learning_rate):
        params = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(params, lr=learning_rate)


def get_batch():
    ix = torch.randint(len(data) - block_size - 1, (batch_size,))
    x = torch.stack([data[i:i + block_size] for i in ix])
    y = torch.stack([data[i + 1:i + 1 + block_size] for i in ix])
    return x, y


model = GPT()
optimizer = model.configure_optimizers(1e-3)
X, Y = get_batch()
while True:
    with ctx:
        logits, loss = model(X, Y)
    X, Y = get_batch()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print("loss", loss.item())
