"""Next-word model: the hidden state goes from one stretch of text to the next (truncated backpropagation through time)."""
import torch
from torch import nn


def batchify(tokens, batch_size):
    length = len(tokens) // batch_size
    return tokens[: length * batch_size].view(batch_size, length).t().contiguous()


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid, nlayers):
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)

    def forward(self, x, hidden):
        output, hidden = self.rnn(self.encoder(x), hidden)
        return self.decoder(output), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return weight.new_zeros(2, bsz, 64), weight.new_zeros(2, bsz, 64)


bptt = 16
train_data = batchify(torch.randint(0, 50, (200_000,)), 8)
model = RNNModel(50, 32, 64, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
criterion = nn.CrossEntropyLoss()
for epoch in range(1, 41):
    hidden = model.init_hidden(8)
    for batch, i in enumerate(range(0, train_data.size(0) - 1 - bptt, bptt)):
        data, targets = train_data[i : i + bptt], train_data[i + 1 : i + 1 + bptt].reshape(-1)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output.view(-1, 50), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        if batch % 200 == 0:
            print(f"| epoch {epoch:3d} | {batch:5d} batches | loss {loss.item():5.2f}", flush=True)
