"""A loop whose time is known line by line, because it is planted there: `attribution.py` compares it with what is said of it.

    python planted.py main|loader|worker --truth FILE [--seconds 20]

`main`: Python, a native call that holds the interpreter's lock, and a forward with its backward, all in the training process.
`loader`: a sampler, the data set and collate_fn, without workers. `worker`: the same with one worker, which is slower than the
training process, so that a step takes as long as a batch in the worker.

A line with `planted: NAME` in a comment, and the one below it, are a place. Each place measures itself with perf_counter. Once
a second FILE is written anew: seconds in each place, of all steps, and the number of steps, since the loop runs evenly. What a
step takes besides is a small network.
"""

import argparse
import json
import os
from time import perf_counter

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

STEP = 0.04
"""Seconds that a step is meant to take."""
BATCH = 8
SETTLED = 20
"""Steps at the start that do not count: memory and workers come into being."""
PLACES = {
    "main": {"python": 0.1, "native": 0.3, "forward": 0.2},
    "loader": {"item": 0.1, "collate": 0.2, "sampler": 0.3},
    "worker": {"item": 0.3, "collate": 0.2, "sampler": 0.1, "store": 0.45},
}
"""Share of a step that is planted. The backward of `forward` takes as long again."""
NETWORK = {"main": 0.2, "loader": 0.4, "worker": 0.2}
"""Share of a step that the network takes."""
NAMES = ("python", "native", "forward", "backward", "item", "collate", "sampler", "store")

parser = argparse.ArgumentParser()
parser.add_argument("scene", choices=list(PLACES))
parser.add_argument("--truth", required=True)
parser.add_argument("--seconds", type=float, default=1e9)
args = parser.parse_args()
torch.set_num_threads(1)
spent = torch.zeros(len(NAMES), dtype=torch.float64).share_memory_()
"""Seconds in each place; in memory that a worker writes to as well."""


def planted(name):
    return PLACES[args.scene].get(name, 0.0) * STEP


def add(name, since):
    spent[NAMES.index(name)] += perf_counter() - since


def sized(make, work, seconds):
    """What ``make(size)`` gives at the size with which ``work`` takes so many seconds."""
    size = 1000
    while True:
        thing = make(size)
        work(thing)
        times = []
        for _ in range(5):
            begin = perf_counter()
            work(thing)
            times.append(perf_counter() - begin)
        took = sorted(times)[2]
        if took > seconds / 3:
            return make(max(1, round(size * seconds / took)))
        size *= 2


def objects(size):
    return np.arange(size).astype(object)  # adding up objects is one long call that never lets another thread run


def random(size):
    return np.random.default_rng(0).random(size)


class Samples(Dataset):
    def __init__(self):
        self.numbers = sized(random, np.sort, planted("store") / BATCH) if planted("store") else random(2)

    def __len__(self):
        return 1_000_000

    def __getitem__(self, place):
        begin = perf_counter()
        end = begin + planted("item") / BATCH
        while perf_counter() < end:  # planted: item
            pass
        add("item", begin)
        begin = perf_counter()
        np.sort(self.numbers)  # planted: store
        add("store", begin)
        return np.full(64, place % 7, dtype=np.float32)


class Order(Sampler):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        for place in range(len(self.samples)):
            begin = perf_counter()
            end = begin + planted("sampler") / BATCH
            while perf_counter() < end:  # planted: sampler
                pass
            add("sampler", begin)
            yield place


class Collate:
    def __init__(self):
        self.numbers = sized(random, np.sort, planted("collate"))

    def __call__(self, samples):
        begin = perf_counter()
        np.sort(self.numbers)  # planted: collate
        add("collate", begin)
        return torch.from_numpy(np.stack(samples))


def ones():
    while True:
        yield torch.ones(BATCH, 64)


def write(begin, steps):
    truth = {"seconds": perf_counter() - begin, "steps": steps, "places": dict(zip(NAMES, spent.tolist(), strict=True))}
    with open(args.truth + ".new", "w") as out:
        json.dump(truth, out)
    os.replace(args.truth + ".new", args.truth)


def loop(batches, network, extra, optimizer, filler, rows, numbers):
    backward_began = [0.0]
    extra.register_post_accumulate_grad_hook(lambda _: add("backward", backward_began[0]))
    began = wrote = perf_counter()
    for step, batch in enumerate(batches):
        if step == SETTLED:
            spent.zero_()
            began = perf_counter()
        loss = network(filler + batch.mean()).square().mean()
        if args.scene == "main":
            begin = perf_counter()
            product = rows @ extra  # planted: forward
            add("forward", begin)
            product.register_hook(lambda _: backward_began.__setitem__(0, perf_counter()))
            loss = loss + product[0, 0]
            begin = perf_counter()
            end = begin + planted("python")
            while perf_counter() < end:  # planted: python
                pass
            add("python", begin)
            begin = perf_counter()
            np.add.reduce(numbers)  # planted: native
            add("native", begin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = perf_counter()
        over = step > SETTLED and now > began + args.seconds
        if over or (step > SETTLED and now > wrote + 1):
            wrote = now
            write(began, step - SETTLED + 1)
        if over:
            break


def main():
    width = 512
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    extra = nn.Parameter(torch.randn(width, width) / width)
    optimizer = torch.optim.SGD([*network.parameters(), extra], lr=1e-6)
    filler = sized(lambda size: torch.randn(size, 64), network, NETWORK[args.scene] * STEP / 3)
    batches, rows, numbers = ones(), None, None
    if args.scene == "main":
        rows = sized(lambda size: torch.randn(size, width), lambda rows: rows @ extra.detach(), planted("forward"))
        numbers = sized(objects, np.add.reduce, planted("native"))
    else:
        samples = Samples()
        batches = DataLoader(samples, batch_size=BATCH, sampler=Order(samples), collate_fn=Collate(),
                             num_workers=1 if args.scene == "worker" else 0)
    loop(batches, network, extra, optimizer, filler, rows, numbers)


if __name__ == "__main__":
    main()
