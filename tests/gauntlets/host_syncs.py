# Each marked line is a call that would wait on a GPU (S) or would not (N), in a step that runs on a CPU.
# Run by test_host_syncs.py; `device`, `model`, `optimizer`, `criterion`, `loader`, `meter`, `dataset` are given.
import numpy as np
import torch
from torch.nn import functional as F

for x, y in loader:                                             # N  collate and dataset work on the CPU
    sample, label = dataset[0]
    name = float(sample.mean())                                 # N  a sample is a CPU tensor
    count = int(label)                                          # N
    array = sample.numpy()                                      # N
    if sample.max() > 10:                                       # N
        raise ValueError("bad sample")
    weights = torch.tensor([1.0, 2.0])                          # N
    lengths = torch.tensor([3, 4]).tolist()                     # N
    x, y = x.to(device), y.to(device)                           # N  the copy is another rule's
    optimizer.zero_grad()                                       # N
    out = model(x)                                              # N
    loss = criterion(out, y)                                    # N
    loss.backward()                                             # N
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)     # N
    optimizer.step()                                            # N  Adam reads its own counters
    value = loss.item()                                         # S
    meter.update(value)                                         # N  a float by now
    meter.update(float(loss))                                   # S
    meter.tensor += 1                                           # N
    average = meter.tensor.item() / 2                           # N  a meter's own tensor
    correct = (out.argmax(1) == y).sum()                        # N
    total = correct.item()                                      # S
    accuracy = (out.argmax(1) == y).float().mean().cpu()        # S
    shown = accuracy.numpy()                                    # N  on the host since the line above
    again = accuracy.item()                                     # N
    predictions = out.detach().cpu().numpy()                    # S
    worst = np.asarray(y.cpu())                                 # S
    text = f"loss {loss:.3f}"                                   # S
    text = "loss " + str(loss)                                  # S
    text = f"loss {value:.3f}"                                  # N
    if torch.isnan(loss):                                       # S
        raise ValueError("loss is not a number")
    if not torch.isfinite(out).all():                           # S
        raise ValueError("not finite")
    assert out.shape[0] == x.size(0)                            # N  shapes are known to the host
    assert out.device == y.device                               # N
    positives = out[out > 0]                                    # S
    masked = out.masked_fill(out > 0, 0.0)                      # N
    chosen = torch.where(out > 0, out, 0.0)                     # N
    places = torch.nonzero(y == 1)                              # S
    classes = y.unique()                                        # S
    first = out[0, 0]                                           # N
    rows = out[torch.arange(2)]                                 # N
    rows = out[y]                                               # N  an index of integers has a known size
    listed = y.tolist()                                         # S
    same = torch.equal(y, y)                                    # S
    biggest = max(loss, 0.5)                                    # S
    norm = sum(p.norm() for p in model.parameters())            # N
    norm = sum(p.norm().item() for p in model.parameters())     # S
    history = loss.detach()                                     # N
    ones = torch.ones(3).sum().item()                           # N
    permutation = torch.randperm(4)                             # N
    beta = torch.distributions.Beta(0.2, 0.2).sample().item()   # N  mixup's coefficient is drawn on the CPU
    mixed = beta * x + (1 - beta) * x.flip(0)                   # N
    onehot = F.one_hot(y, 4)                                    # N  (needs the largest class only where none is given)
    top = out.topk(2, 1).values                                 # N
    copied = x.clone()                                          # N
    copied[copied > 0] = 0.0                                    # N
    copied[copied > 0] = copied[copied > 0] + 1                 # S
    picked = torch.masked_select(x, x > 0)                      # S
    fast = x.mean().half()                                      # N
    print(loss)                                                 # S
    print(value)                                                # N
    break
