# Each marked line waits for the device (S) or does not (N), in a step on CUDA. Run by test_simulated_device.py, on a device
# whose kernels compute nothing: lines whose shapes depend on values are left to host_syncs.py.
# `host`, `labels`, `model`, `optimizer`, `meter` are given; model and meter as they are in most scripts.
import torch
from torch.nn import functional as F

x = host.to("cuda")                                             # S  from pageable memory
y = labels.cuda()                                               # S  from pageable memory
pinned = host.pin_memory()                                      # N
fast = pinned.to("cuda", non_blocking=True)                     # N
slow = pinned.to("cuda")                                        # S  the host waits for its end
hidden = host.to("cuda", non_blocking=True)                     # S  pageable: non_blocking is not heeded
inplace = torch.empty(8, 6, device="cuda")                      # N
inplace.copy_(host)                                             # S
inplace.copy_(pinned, non_blocking=True)                        # N
weights = torch.tensor([1.0, 2.0], device="cuda")               # S  Python values travel from pageable memory
zeros = torch.zeros(4, device="cuda")                           # N
noise = torch.randn(4, device="cuda")                           # N
also = x.to("cuda")                                             # N  it is there already
half = x.to(torch.float16)                                      # N
optimizer.zero_grad()                                           # N
with torch.autocast("cuda", dtype=torch.bfloat16):
    out = model(x)                                              # N
loss = F.cross_entropy(out.float(), y)                          # N
loss.backward()                                                 # N
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)         # N
optimizer.step()                                                # N  Adam reads its own counters, on the CPU
value = loss.item()                                             # S
text = f"{value:.3f}"                                           # N
text = f"{loss:.3f}"                                            # S
total = float(loss)                                             # S
meter += 1                                                      # N
average = meter.item()                                          # N  lives on the CPU
kept = loss.detach()                                            # N
back = out.detach().cpu()                                       # S
mean = back.mean().item()                                       # N  on the host by now
listed = y.tolist()                                             # S
if loss > 1e9:                                                  # S
    raise ValueError("diverged")
clamped = out.clamp(min=0)                                      # N
chosen = torch.where(out > 0, out, 0.0)                         # N
best = out.argmax(1)                                            # N
event = torch.cuda.Event()                                      # N
event.record()                                                  # N
ready = event.query()                                           # N
event.synchronize()                                             # S
torch.cuda.current_stream().synchronize()                       # S
torch.cuda.synchronize()                                        # S
side = torch.cuda.Stream()                                      # N
side.wait_stream(torch.cuda.current_stream())                   # N
with torch.cuda.stream(side):
    ahead = pinned.to("cuda", non_blocking=True)                # N
used = torch.cuda.memory_allocated()                            # N
