"""What is hooked into torch reaches the listener, in order and once, changes no result, and is gone afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import dataloader as torch_dataloader

from perfdoc.inject.feed import twin
from perfdoc.inject.observe.clock import BACKWARD, LEAVE, Clock
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.torch_hooks import TorchHooks


class Listener:
    """Keeps what it hears, and does what it is asked."""

    def __init__(self) -> None:
        self.enabled = True
        self.clock = Clock()
        self.loop = LoopState()
        self.heard: list[str] = []

    def fetch(self, iterator: Any) -> Any:
        if iterator.__dict__.get("_perfdoc_handle") is None:
            iterator._perfdoc_handle = self.loop.known_loaders.of(iterator._perfdoc_loader, iterator)
        self.heard.append("fetch")
        return twin.original_next(iterator)

    def forward(self, module: Any, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.heard.append(f"forward {type(module).__name__}")
        return forward(*args, **kwargs)

    def backward(self, run: Callable[..., None], tensors: Any, args: tuple[Any, ...], kwargs: Any) -> None:
        self.heard.append("backward")
        run(tensors, *args, **kwargs)

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.heard.append(f"before {type(optimizer).__name__}")

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.heard.append(f"after {type(optimizer).__name__}")
        self.loop.optimizers.append(optimizer)

    @contextlib.contextmanager
    def own_settings(self) -> Iterator[None]:
        self.heard.append("own settings")
        yield
        self.heard.append("as before")


@pytest.fixture
def listener() -> Iterator[Listener]:
    """One that hears of torch during a test."""
    heard = Listener()
    hooks = TorchHooks(heard)
    hooks.install()
    heard.hooks = hooks  # type: ignore[attr-defined]
    yield heard
    hooks.undo()


def attributes() -> dict[str, Any]:
    """Everything of torch that is replaced, as it is now."""
    places = [torch, torch.autograd, torch.autocast, torch.Tensor, nn.Module, torch.optim.Optimizer, DataLoader,
              torch_dataloader._BaseDataLoaderIter, torch_dataloader._MultiProcessingDataLoaderIter, nn.Linear, nn.Sequential,
              torch.utils.checkpoint, *(c for c in vars(lr_scheduler).values() if isinstance(c, type))]
    return {f"{place.__name__}.{name}": value for place in places for name, value in vars(place).items()
            if callable(value) and name != "_compiled_autograd_enabled"}


def train(model: nn.Module | None = None, steps: int = 1) -> list[float]:
    """The loop that people write; its losses."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for (x,) in DataLoader(TensorDataset(torch.randn(4 * steps, 4)), batch_size=4):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_step_is_heard_of_in_its_order(listener: Listener) -> None:
    """One batch, one call of the outermost module and none of its parts, one backward, one optimizer step; then no batch."""
    train()
    assert listener.heard == ["fetch", "forward Sequential", "backward", "before SGD", "after SGD", "fetch"]
    (handle,) = listener.loop.known_loaders.handles.values()
    assert handle.site.rsplit(":", 1)[0].endswith("test_torch_hooks.py")
    assert listener.loop.optimizers[0]._perfdoc_made_at[0].endswith("test_torch_hooks.py")


def test_the_same_is_computed(listener: Listener) -> None:
    """Losses are those of a loop that nobody listens to."""
    heard = train(steps=5)
    listener.hooks.undo()  # type: ignore[attr-defined]
    assert heard == train(steps=5)


def test_nothing_is_heard_while_disabled(listener: Listener) -> None:
    """All wrappers pass straight through; the two hooks of torch's own are the listener's to ignore."""
    listener.enabled = False
    listener.loop.holding = True
    train()
    scheduler = lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), 1)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1]
    assert [event for event in listener.heard if event.split()[0] not in ("before", "after", "forward")] == []


def test_another_thread_is_none_of_the_listeners_business(listener: Listener) -> None:
    """Backward and the calls of models are heard of only on the thread that trains."""
    model = nn.Linear(4, 1)
    thread = threading.Thread(target=lambda: model(torch.ones(1, 4)).sum().backward())
    thread.start()
    thread.join()
    assert listener.heard == []
    assert model.weight.grad is not None


def test_gradients_that_are_asked_for_count_as_backward(listener: Listener) -> None:
    """``torch.autograd.grad`` is marked on the clock, entered and left."""
    x = torch.ones(3, requires_grad=True)
    marks: list[int] = []
    listener.clock.mark = lambda mark: marks.append(mark[0])
    (gradient,) = torch.autograd.grad(x.pow(2).sum(), x)
    assert gradient.tolist() == [2.0, 2.0, 2.0]
    assert marks == [BACKWARD, LEAVE]


def test_a_model_is_saved_under_the_users_own_settings(listener: Listener, tmp_path: Any) -> None:
    """Changes are taken back around ``torch.save``, also where it fails."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    assert listener.heard == ["own settings", "as before"]
    assert torch.load(tmp_path / "model.pt")["weight"].tolist() == [1.0, 1.0]


def test_schedules_stand_still_only_while_the_loop_is_held(listener: Listener) -> None:
    """A held loop takes more steps than the script ever would: its schedule must not be driven past its end."""
    scheduler = lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), 1)
    listener.loop.holding = True
    scheduler.step()
    assert scheduler.get_last_lr() == [1.0]
    listener.loop.holding = False
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1]


def test_a_held_loader_is_iterated_without_its_workers(listener: Listener) -> None:
    """What the loop iterates is a stand-in without processes: the batches come from elsewhere."""
    loader = DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2, num_workers=2)
    listener.loop.known_loaders.of(loader, iterator := iter(loader)).hold()
    assert len(iterator._workers) == 2
    again = iter(loader)
    assert not hasattr(again, "_workers")
    assert again._perfdoc_loader is loader
    listener.loop.known_loaders.close()


def test_once_the_loop_is_known_only_its_own_modules_are_heard_of(listener: Listener) -> None:
    """The models that train, and what was called from outside any other before; modules of other classes are no longer."""
    model = nn.Sequential(nn.Linear(4, 1))
    model(torch.ones(1, 4))
    assert listener.hooks.called() == [model]  # type: ignore[attr-defined]
    listener.hooks.narrow([model])  # type: ignore[attr-defined]
    listener.heard.clear()
    model(torch.ones(1, 4))
    nn.Bilinear(1, 1, 1)(torch.ones(1, 1), torch.ones(1, 1))
    assert listener.heard == ["forward Sequential"]


@pytest.mark.parametrize("known", [False, True])
def test_torch_is_given_back(known: bool) -> None:
    """Every attribute is what it was, and marks on the user's own objects are gone, however far the scan has come."""
    before = attributes()
    listener = Listener()
    hooks = TorchHooks(listener)
    hooks.install()
    assert attributes() != before
    model = nn.Sequential(nn.Linear(4, 1))
    train(model)
    if known:
        hooks.narrow([model])
        hooks.time_transfers()
        train(model)
    hooks.undo()
    after = attributes()
    assert [name for name in before | after if before.get(name) is not after.get(name)] == []
    assert all("_perfdoc_made_at" not in vars(optimizer) for optimizer in listener.loop.optimizers)
    heard = len(listener.heard)
    train(model)
    assert len(listener.heard) == heard
