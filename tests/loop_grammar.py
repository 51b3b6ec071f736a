"""Training loops written by a grammar: style x loader x optimizer x accumulation x carried state x exceptions x files.

``Loop.drawn(seed)`` is one of them, always the same for a seed; ``Loop.script()`` its text. The script tells at its end, in
one line that begins with ``SETTINGS``, which of torch's settings, of its modules, optimizers and loaders are not as they were
before the loop. ``tests/test_generated_loops.py`` scans a few, ``benchmarks/generated_loops.py`` as many as are asked for.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from textwrap import dedent, indent
from typing import Any

STYLES = ("for", "while_next", "iterations", "enumerate_len", "zip_two", "function_step", "closure", "nested", "trainer")
LOADERS = ("list", "map", "iterable", "batch_sampler", "workers", "persistent", "dict", "namedtuple", "dataclass", "drop_last",
           "generator")
OPTIMIZERS = ("sgd", "adam", "two", "custom", "manual", "scaler", "step_schedule", "epoch_schedule")
ACCUMULATION = ("1", "3", "from_len")
STATES = ("none", "lstm", "ema")
EXCEPTIONS = ("none", "around_step", "rebuild", "interrupt", "finally")
FILES = ("none", "checkpoint", "log")

WITHOUT_LENGTH = ("iterable", "generator")
NO_DATALOADER = ("list", "generator")
BY_NEXT = ("while_next", "iterations")


@dataclass(frozen=True)
class Loop:
    """One loop: a choice of each kind."""

    seed: int
    style: str
    loader: str
    optimizer: str
    accumulation: str
    state: str
    exceptions: str
    files: str

    @classmethod
    def drawn(cls, seed: int) -> Loop:
        """The loop of a seed. What cannot be written is changed to what can: a closure is LBFGS's, and so on."""
        rng = random.Random(seed)
        style, loader = rng.choice(STYLES), rng.choice(LOADERS)
        optimizer, accumulation = rng.choice(OPTIMIZERS), rng.choice(ACCUMULATION)
        state, exceptions, files = rng.choice(STATES), rng.choice(EXCEPTIONS), rng.choice(FILES)
        if style == "closure":
            optimizer, accumulation = "lbfgs", "1"
        if style == "enumerate_len" and loader in WITHOUT_LENGTH:
            loader = "map"
        if loader in WITHOUT_LENGTH and accumulation == "from_len":
            accumulation = "3"
        if style in BY_NEXT and accumulation == "from_len":
            accumulation = "3"  # these count iterations, and know of no last group
        if exceptions == "rebuild" and style not in BY_NEXT:
            exceptions = "none"
        if loader == "generator" and exceptions == "rebuild":
            exceptions = "finally"
        return cls(seed, style, loader, optimizer, accumulation, state, exceptions, files)

    def __str__(self) -> str:
        return f"seed {self.seed}: " + ", ".join(f"{name} {value}" for name, value in asdict(self).items() if name != "seed")

    @property
    def treatments(self) -> str:
        """What is tried in it."""
        more = () if self.loader in NO_DATALOADER else ("dataloader_workers",)
        return ",".join(("autocast", "optimizer_implementation", *more))

    @property
    def step(self) -> dict[str, Any]:
        """What its step must be taken for, as far as that is certain."""
        batches = 1 if self.accumulation == "1" else 3
        wanted: dict[str, Any] = {"by_hand": self.optimizer == "manual"}
        if self.optimizer == "manual":
            return wanted  # a step is a backward call there
        wanted["optimizer_calls"] = 2 if self.optimizer == "two" else 1
        wanted["batches"] = 0 if self.loader in NO_DATALOADER else batches  # of each loader
        if self.optimizer != "lbfgs":
            wanted["backwards"] = batches
        return wanted

    # -- the text

    def script(self) -> str:
        """The whole script."""
        title = f'"""Generated loop, {self}."""'
        parts = [title, HEAD, self._data(), MODELS[self.state], self._optimizers(), CHECK, self._loop()]
        return "\n\n".join(dedent(part).strip("\n") for part in parts) + "\n"

    def _data(self) -> str:
        if self.loader == "list":
            made = "[(torch.randn(16, 8, 12), torch.randint(0, 4, (16,))) for _ in range(40)]"
            return f"def make():\n    return {made}\n"
        if self.loader == "generator":
            return dedent("""
                def make():
                    while True:
                        yield torch.randn(16, 8, 12), torch.randint(0, 4, (16,))
            """)
        if self.loader == "iterable":
            return STREAM
        settings = {
            "batch_sampler": "batch_sampler=BatchSampler(RandomSampler(data), 16, False)",
            "workers": "batch_size=16, shuffle=True, num_workers=2",
            "persistent": "batch_size=16, shuffle=True, num_workers=1, persistent_workers=True",
            "drop_last": "batch_size=16, shuffle=True, drop_last=True",
        }.get(self.loader, "batch_size=16, shuffle=True")
        collate = {"dict": COLLATE_DICT, "namedtuple": COLLATE_NAMEDTUPLE, "dataclass": COLLATE_DATACLASS}.get(self.loader, "")
        settings += ", collate_fn=collate" if collate else ""
        made = f"\n\ndef make():\n    data = Points()\n    return DataLoader(data, {settings})\n"
        return dedent(DATASET) + dedent(collate) + made

    def _optimizers(self) -> str:
        made = {
            "sgd": "optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)]",
            "adam": "optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3)]",
            "two": "optimizers = [torch.optim.SGD(model.body.parameters(), lr=0.01),\n"
                   "              torch.optim.Adam(model.head.parameters())]",
            "custom": CUSTOM + "optimizers = [Signs(model.parameters(), 1e-3)]",
            "manual": "optimizers = []",
            "scaler": "optimizers = [torch.optim.SGD(model.parameters(), lr=0.01)]\n"
                      "scaler = torch.amp.GradScaler('cpu', enabled=False)",
            "step_schedule": "optimizers = [torch.optim.SGD(model.parameters(), lr=0.01)]\n"
                             "scheduler = torch.optim.lr_scheduler.StepLR(optimizers[0], 100, 0.99)",
            "epoch_schedule": "optimizers = [torch.optim.SGD(model.parameters(), lr=0.01)]\n"
                              "scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.99)",
            "lbfgs": "optimizers = [torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=5)]",
        }[self.optimizer]
        return dedent(made)

    def _unpack(self, batch: str, x: str, y: str) -> str:
        if self.loader == "dict":
            return f'{x}, {y} = {batch}["x"], {batch}["y"]'
        if self.loader in ("namedtuple", "dataclass"):
            return f"{x}, {y} = {batch}.x, {batch}.y"
        return f"{x}, {y} = {batch}"

    def _update(self) -> list[str]:
        if self.optimizer == "manual":
            lines = ["for p in model.parameters():", "    p.data.add_(p.grad, alpha=-0.01)", "    p.grad = None"]
        elif self.optimizer == "scaler":
            lines = ["scaler.step(optimizers[0])", "scaler.update()", "optimizers[0].zero_grad()"]
        else:
            lines = ["for optimizer in optimizers:", "    optimizer.step()", "    optimizer.zero_grad()"]
        if self.optimizer == "step_schedule":
            lines.append("scheduler.step()")
        if self.state == "ema":
            lines += ["for average, p in zip(run.averages, model.parameters()):", "    average.lerp_(p.detach(), 0.01)"]
        lines.append("run.updates += 1")
        if self.files == "checkpoint":
            lines += ["if run.updates % 300 == 0:",
                      '    torch.save(model.state_dict(), f"checkpoint-{run.updates // 300 % 3}.pt")']
        if self.files == "log":
            lines += ["if run.updates % 100 == 0:", '    with open("train.log", "a") as f:',
                      '        print(run.updates, loss.item(), file=f)']
        return lines

    def _step(self) -> str:
        lines = [self._unpack("batch", "x", "y")]
        if self.style == "zip_two":
            lines.append(self._unpack("other", "x2", "y2"))
        group = {"1": "1", "3": "3", "from_len": "min(3, len(loader) - i // 3 * 3)"}[self.accumulation]
        loss = [f"loss = nn.functional.cross_entropy(predict(x), y) / {group}"]
        if self.style == "zip_two":
            loss.append("loss = loss + 0.1 * predict(x2).float().pow(2).mean()")
        if self.style == "closure":
            inner = ["optimizers[0].zero_grad()", *loss, "loss.backward()", "return loss"]
            lines += ["def closure():", *(f"    {line}" for line in inner), "loss = optimizers[0].step(closure)"]
            update = [line for line in self._update() if "optimizer" not in line]
            return "\n".join([*lines, *update])
        backward = "scaler.scale(loss).backward()" if self.optimizer == "scaler" else "loss.backward()"
        lines += [*loss, backward]
        if self.accumulation == "1":
            return "\n".join([*lines, *self._update()])
        last = " or i + 1 == len(loader)" if self.accumulation == "from_len" else ""
        return "\n".join([*lines, f"if (i + 1) % 3 == 0{last}:", *(f"    {line}" for line in self._update())])

    def _guarded(self) -> str:
        if self.exceptions != "around_step":
            return self._step()
        return _filled(AROUND_STEP, "STEP", self._step())

    def _loop(self) -> str:
        loop = LOOPS[self.style]
        if self.optimizer != "epoch_schedule":
            loop = "\n".join(line for line in loop.splitlines() if line.strip() != "EPOCH_END")
        for place, lines in (("NEXT", self._next()), ("STEP", self._guarded()), ("EPOCH_END", "scheduler.step()")):
            loop = _filled(loop, place, lines)
        around = {"interrupt": INTERRUPT, "finally": FINALLY}.get(self.exceptions, "LOOP")
        return _filled(MAIN, "LOOP", _filled(around, "LOOP", loop))

    def _next(self) -> str:
        if self.loader == "generator":
            return "batch = next(batches)"
        if self.exceptions != "rebuild" and self.style == "while_next":
            return "batch = next(batches, None)\nif batch is None:\n    batches = iter(loader)\n    batch = next(batches)"
        return "try:\n    batch = next(batches)\nexcept StopIteration:\n    batches = iter(loader)\n    batch = next(batches)"


def _filled(text: str, place: str, lines: str) -> str:
    """``text`` with ``lines`` where a line holds only ``place``, as deep as that."""
    done = []
    for line in text.strip("\n").splitlines():
        deep = line.removesuffix(place)
        done.append(indent(lines.strip("\n"), deep) if line.strip() == place else line)
    return "\n".join(done)


LOOPS = {
    "for": """
for epoch in range(100_000):
    i = 0
    for batch in loader:
        STEP
        i += 1
    EPOCH_END
""",
    "while_next": """
batches = iter(loader)
i = 0
while i < 1_000_000:
    NEXT
    STEP
    i += 1
""",
    "iterations": """
batches = iter(loader)
for i in range(1_000_000):
    NEXT
    STEP
""",
    "enumerate_len": """
for epoch in range(100_000):
    for i, batch in enumerate(loader):
        STEP
        if i == len(loader) - 1:
            print(f"epoch {epoch} is over")
    EPOCH_END
""",
    "zip_two": """
second = make()
for epoch in range(100_000):
    for i, (batch, other) in enumerate(zip(loader, second)):
        STEP
    EPOCH_END
""",
    "function_step": """
def train_one_epoch(epoch):
    for i, batch in enumerate(loader):
        STEP


for epoch in range(100_000):
    train_one_epoch(epoch)
    EPOCH_END
""",
    "closure": """
for epoch in range(100_000):
    for i, batch in enumerate(loader):
        STEP
""",
    "nested": """
def main():
    def epoch(number):
        def one(i, batch):
            STEP

        for i, batch in enumerate(loader):
            one(i, batch)

    for number in range(100_000):
        epoch(number)
        EPOCH_END


main()
""",
    "trainer": """
class Trainer:
    def training_step(self, i, batch):
        STEP
        return loss.detach()

    def fit(self):
        for epoch in range(100_000):
            for i, batch in enumerate(loader):
                self.last = self.training_step(i, batch)
            EPOCH_END


Trainer().fit()
""",
}
AROUND_STEP = """
try:
    STEP
except RuntimeError as error:
    if "out of memory" not in str(error):
        raise
    print("a batch was too large")
"""
INTERRUPT = """
try:
    LOOP
except KeyboardInterrupt:
    torch.save(model.state_dict(), "interrupted.pt")
"""
FINALLY = """
try:
    LOOP
finally:
    torch.save(model.state_dict(), "final.pt")
"""
MAIN = """
if __name__ == "__main__":
    loader = make()
    BEFORE = settings(loader)
    try:
        LOOP
    finally:
        tell(BEFORE, settings(loader))
"""
HEAD = """
import json
import types
from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler

torch.manual_seed(0)
run = types.SimpleNamespace(updates=0, state=None, averages=[])
"""
DATASET = """
class Points(Dataset):
    def __len__(self):
        return 632

    def __getitem__(self, i):
        return torch.full((8, 12), i / 632), i % 4
"""
STREAM = """
class Stream(IterableDataset):
    def __iter__(self):
        for i in range(640):
            yield torch.full((8, 12), i / 640), i % 4


def make():
    return DataLoader(Stream(), batch_size=16)
"""
COLLATE_DICT = """

def collate(samples):
    xs, ys = zip(*samples)
    return {"x": torch.stack(xs), "y": torch.tensor(ys), "ids": list(range(len(ys)))}
"""
COLLATE_NAMEDTUPLE = """

Batch = namedtuple("Batch", "x y")


def collate(samples):
    xs, ys = zip(*samples)
    return Batch(torch.stack(xs), torch.tensor(ys))
"""
COLLATE_DATACLASS = """

@dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor


def collate(samples):
    xs, ys = zip(*samples)
    return Batch(torch.stack(xs), torch.tensor(ys))
"""
CUSTOM = """
class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


"""
PLAIN_MODEL = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(96, 128), nn.ReLU())
        self.head = nn.Linear(128, 4)

    def forward(self, x):
        return self.head(self.body(x))


model = Net()
"""
MODELS = {
    "none": PLAIN_MODEL + "\n\ndef predict(x):\n    return model(x)\n",
    "ema": PLAIN_MODEL + """
run.averages = [p.detach().clone() for p in model.parameters()]


def predict(x):
    out = model(x)
    run.state = out.detach().mean(0) if run.state is None else 0.9 * run.state + 0.1 * out.detach().mean(0)
    return out - 0.01 * run.state
""",
    "lstm": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(12, 48, batch_first=True)
        self.head = nn.Linear(48, 4)

    def forward(self, x, state):
        out, state = self.body(x, state)
        return self.head(out[:, -1]), state


model = Net()


def predict(x):
    if run.state is not None and run.state[0].size(1) != x.size(0):
        run.state = None
    if run.state is not None:
        run.state = tuple(part.detach() for part in run.state)
    out, run.state = model(x, run.state)
    return out
""",
}
CHECK = """
def settings(loader):
    found = {
        "threads": torch.get_num_threads(), "matmul precision": torch.get_float32_matmul_precision(),
        "autocast": torch.is_autocast_enabled("cpu"), "autocast dtype": str(torch.get_autocast_dtype("cpu")),
        "default dtype": str(torch.get_default_dtype()), "gradients": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn benchmark": torch.backends.cudnn.benchmark, "mkldnn": torch.backends.mkldnn.enabled,
        "seeded by": torch.initial_seed(),
    }
    for name, module in model.named_modules():
        found[f"module {name}"] = [type(module).__name__, module.training, sorted(module.__dict__)]
    for name, p in model.named_parameters():
        found[f"parameter {name}"] = [str(p.dtype), list(p.stride()), str(p.device), p.requires_grad]
    for place, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            found[f"optimizer {place}"] = {
                k: repr(v) for k, v in group.items() if k not in ("params", "lr", "initial_lr") and not k.startswith("_")}
    if isinstance(loader, DataLoader):
        found["loader"] = [loader.num_workers, loader.batch_size, loader.pin_memory, loader.prefetch_factor,
                           loader.persistent_workers, type(loader.dataset).__name__, type(loader.sampler).__name__,
                           type(loader.batch_sampler).__name__, loader.timeout]
    return found


def tell(before, after):
    changed = {name: [before.get(name), after.get(name)] for name in {**before, **after} if before.get(name) != after.get(name)}
    print("SETTINGS", json.dumps(changed), flush=True)
"""


def settings_changed(log: str) -> dict[str, Any] | None:
    """What the script's last SETTINGS line tells; None where it told nothing."""
    told = [line for line in log.splitlines() if line.startswith("SETTINGS ")]
    return dict(json.loads(told[-1].removeprefix("SETTINGS "))) if told else None


def complaints(loop: Loop, code: int, said: str, capture: dict[str, Any], log: str) -> list[str]:
    """What a scan of ``loop`` did not do as it must, in words: from its exit code, what it printed, its capture and its log."""
    found = []
    run = capture["run"]
    if code != 0 or run["outcome"] != "complete":
        found.append(f"exit code {code}, {run['outcome']}: {run['reason'][:200]}")
    if "failed by itself" in said + run["reason"]:
        found.append("the script is blamed")
    if capture["loop"] is None:
        found.append("no loop was found")
    else:
        step = capture["loop"]["step"]
        loaders = 0 if loop.loader in NO_DATALOADER else 2 if loop.style == "zip_two" else 1
        if len(capture["loop"]["loaders"]) != loaders:
            found.append(f"{len(capture['loop']['loaders'])} loaders were found, not {loaders}")
        found += [f"a step has {step[name]} {name}, not {wanted}" for name, wanted in loop.step.items() if step[name] != wanted]
    if not any(block["arm"] == "control" for block in capture["blocks"]):
        found.append("no control block")
    tried = any("=" in block["arm"] for block in capture["blocks"]) or capture["experiment"]["failed"]
    if not tried and capture["experiment"]["reason"] != "budget spent":  # a slow machine may reach none
        found.append("no change was tried")
    changed = settings_changed(log)
    if changed is None:
        found.append("the script did not come to its end")
    elif changed:
        found.append(f"not restored: {changed}")
    return found
