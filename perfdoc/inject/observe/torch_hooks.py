"""What is hooked into torch so that a listener hears of the loop, and how torch is given back as it was.

Wrapped are the making and iteration of loaders (``_BaseDataLoaderIter.__next__``), the calls of outermost modules,
``torch.autograd.backward`` and ``grad``, and, through torch's own global hooks, ``Optimizer.step``. All wrappers pass straight
through where the listener is not enabled: on other threads, in forked children, after the scan.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.optim.optimizer as torch_optimizer
from torch.optim import lr_scheduler
from torch.utils.data import dataloader as torch_dataloader

from perfdoc.core.user_code import calling_site, calling_users
from perfdoc.inject.feed import twin
from perfdoc.inject.observe.clock import BACKWARD, TRANSFER, Clock
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.modules import OutermostCalls


class LoopListener(Protocol):
    """Who hears of the loop."""

    enabled: bool
    """False: every wrapper passes straight through."""
    clock: Clock
    loop: LoopState

    def fetch(self, iterator: Any) -> Any:
        """The next batch of a DataLoader's iterator, in place of its ``__next__``."""

    def forward(self, module: Any, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of an outermost module, in place of ``forward(*args, **kwargs)``."""

    def backward(self, run: Callable[..., None], tensors: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """``torch.autograd.backward(tensors, ...)``, on the thread that trains; ``run`` is torch's own."""

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """``optimizer.step`` is about to run."""

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """``optimizer.step`` has run."""

    def own_settings(self) -> AbstractContextManager[None]:
        """The user's own settings, while something of theirs is saved. Asked on the thread that trains."""


def _loaders_name(loader: Any) -> str:
    """By what the workers of the user's own loader are told from those of another one; ``1`` for perfdoc's own loaders."""
    return "1" if twin.is_twin(loader) else loader.__dict__.get("_perfdoc_made_at") or "1"


class TorchHooks:
    """Everything that is hooked into torch for a listener."""

    def __init__(self, listener: LoopListener) -> None:
        self._listener = listener
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._outermost = OutermostCalls(listener.forward, listener.clock.mine)
        self._step_hooks: list[Any] = []

    def install(self) -> None:
        """Hook in everything but what only a loop on a device needs."""
        self._loaders()
        self._iterators()
        self._optimizers()
        self._backward()
        self._grad()
        self._saving()
        for member in {c for c in vars(lr_scheduler).values() if isinstance(c, type)}:
            if issubclass(member, lr_scheduler.LRScheduler):
                self._scheduler(member)
        self._step_hooks = [
            torch_optimizer.register_optimizer_step_pre_hook(self._listener.before_step),
            torch_optimizer.register_optimizer_step_post_hook(self._listener.after_step),
        ]
        self._outermost.observe()

    def called(self) -> list[Any]:
        """Modules that were called from outside any other while the loop was observed."""
        return list(self._outermost.seen.values())

    def widen(self) -> None:
        """Another loop may train other models: wrap the calls of all modules again."""
        self._outermost.observe()

    def narrow(self, models: Iterable[Any]) -> None:
        """The loop is known, ``models`` train in it: wrap their calls, and no other modules' any more."""
        self._outermost.narrow(models)

    def undo(self) -> None:
        """Give torch back as it was."""
        self._outermost.release()
        for hook in self._step_hooks:
            hook.remove()
        for optimizer in self._listener.loop.optimizers:
            optimizer.__dict__.pop("_perfdoc_made_at", None)
        self._listener.loop.known_loaders.forget()
        while self._replaced:
            place, name, own, original = self._replaced.pop()
            if own is None and isinstance(place, type):
                delattr(place, name)
            else:
                setattr(place, name, original if own is None else own)

    def _replace(self, place: Any, name: str, new: Any) -> None:
        self._replaced.append((place, name, place.__dict__.get(name), getattr(place, name)))
        setattr(place, name, new)

    def _loaders(self) -> None:
        listener, loader_init = self._listener, torch_dataloader.DataLoader.__init__

        @functools.wraps(loader_init)
        def made(loader: Any, *args: Any, **kwargs: Any) -> None:
            loader_init(loader, *args, **kwargs)
            if listener.enabled:
                known = listener.loop.known_loaders
                loader.__dict__["_perfdoc_made_at"] = known.made_at(loader, calling_site(2), calling_users(2))

        self._replace(torch_dataloader.DataLoader, "__init__", made)

    def _iterators(self) -> None:
        listener, base = self._listener, torch_dataloader._BaseDataLoaderIter
        base_init, multi_init = base.__init__, twin.MultiIter.__init__

        @functools.wraps(base_init)
        def iterated(iterator: Any, loader: Any) -> None:
            iterator._perfdoc_loader = loader
            base_init(iterator, loader)

        @functools.wraps(multi_init)
        def workers_started(iterator: Any, loader: Any) -> None:
            nested = os.environ.get("PERFDOC_WORKER")
            os.environ["PERFDOC_WORKER"] = _loaders_name(loader) if listener.enabled else "1"
            try:
                multi_init(iterator, loader)
            finally:
                if nested is None:
                    os.environ.pop("PERFDOC_WORKER", None)

        def __next__(iterator: Any) -> Any:
            if not listener.enabled:
                return twin.original_next(iterator)
            return listener.fetch(iterator)

        iterate = torch_dataloader.DataLoader.__iter__

        @functools.wraps(iterate)
        def __iter__(loader: Any) -> Any:
            if listener.enabled and not twin.is_twin(loader) and listener.loop.known_loaders.is_held(loader):
                return twin.placeholder(loader)
            return iterate(loader)

        self._replace(torch_dataloader.DataLoader, "__iter__", __iter__)
        self._replace(base, "__init__", iterated)
        self._replace(twin.MultiIter, "__init__", workers_started)
        self._replace(base, "__next__", __next__)

    def _optimizers(self) -> None:
        listener, optimizer_init = self._listener, torch_optimizer.Optimizer.__init__

        @functools.wraps(optimizer_init)
        def made(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            optimizer_init(optimizer, *args, **kwargs)
            if listener.enabled:
                optimizer._perfdoc_made_at = listener.loop.call_sites.made_here()  # type: ignore[attr-defined]

        self._replace(torch_optimizer.Optimizer, "__init__", made)

    def _backward(self) -> None:
        listener, backward = self._listener, torch.autograd.backward

        @functools.wraps(backward)
        def timed(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if not listener.enabled or not listener.clock.mine():
                backward(tensors, *args, **kwargs)
            else:
                listener.backward(backward, tensors, args, kwargs)

        self._replace(torch.autograd, "backward", timed)

    def _grad(self) -> None:
        listener, grad = self._listener, torch.autograd.grad

        @functools.wraps(grad)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not listener.enabled or not listener.clock.mine():
                return grad(*args, **kwargs)
            listener.clock.push(BACKWARD)
            try:
                return grad(*args, **kwargs)
            finally:
                listener.clock.pop()

        self._replace(torch.autograd, "grad", timed)

    def _saving(self) -> None:
        """A model is saved as the user made it: some changes put functions into modules, which cannot be pickled."""
        listener, save = self._listener, torch.save

        @functools.wraps(save)
        def saved(*args: Any, **kwargs: Any) -> Any:
            if not listener.enabled or not listener.clock.mine():
                return save(*args, **kwargs)
            with listener.own_settings():
                return save(*args, **kwargs)

        self._replace(torch, "save", saved)

    def _scheduler(self, cls: type) -> None:
        """While the loop is held, learning-rate schedules stand still: they must not be driven past their end."""
        listener, step = self._listener, cls.__dict__.get("step")
        if step is None:
            return

        @functools.wraps(step)
        def stepped(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if listener.loop.holding and listener.enabled:
                return None
            return step(scheduler, *args, **kwargs)

        self._replace(cls, "step", stepped)

    def time_transfers(self) -> None:
        """Time copies to the device; wrapped only once parameters are known to live on one."""
        listener = self._listener
        for name in ("to", "cuda"):
            original = getattr(torch.Tensor, name)

            def moved(tensor: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
                if not listener.enabled or tensor.is_cuda or not listener.clock.mine():
                    return _original(tensor, *args, **kwargs)
                listener.clock.push(TRANSFER)
                try:
                    return _original(tensor, *args, **kwargs)
                finally:
                    listener.clock.pop()

            self._replace(torch.Tensor, name, functools.wraps(original)(moved))
