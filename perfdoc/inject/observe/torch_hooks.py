"""What is replaced in torch so that a session hears of the loop, and how torch is given back as it was.

All wrappers pass straight through where the session is not enabled: on other threads, in forked children, after the scan.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch.optim import lr_scheduler
from torch.utils.data import dataloader as torch_dataloader

from perfdoc.core.user_code import calling_site, calling_users
from perfdoc.inject.feed import loaders
from perfdoc.inject.observe.clock import BACKWARD, TRANSFER

if TYPE_CHECKING:
    from perfdoc.inject.session import Session


class Wrappers:
    """Attributes of torch that were replaced for a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def install(self) -> None:
        """Wrap the making and the iteration of loaders, the making of optimizers, backward, and learning-rate schedules."""
        self._loaders()
        self._iterators()
        self._optimizers()
        self._backward()
        self._grad()
        self._saving()
        for member in {c for c in vars(lr_scheduler).values() if isinstance(c, type)}:
            if issubclass(member, lr_scheduler.LRScheduler):
                self._scheduler(member)

    def undo(self) -> None:
        """Give back what was replaced, last first."""
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
        session, loader_init = self._session, torch_dataloader.DataLoader.__init__

        @functools.wraps(loader_init)
        def made(loader: Any, *args: Any, **kwargs: Any) -> None:
            loader_init(loader, *args, **kwargs)
            if session.enabled:
                loader.__dict__["_perfdoc_made_at"] = session.loaders.made_at(loader, calling_site(2), calling_users(2))

        self._replace(torch_dataloader.DataLoader, "__init__", made)

    def _iterators(self) -> None:
        session, base = self._session, torch_dataloader._BaseDataLoaderIter
        base_init, multi_init = base.__init__, loaders._MultiIter.__init__

        @functools.wraps(base_init)
        def iterated(iterator: Any, loader: Any) -> None:
            iterator._perfdoc_loader = loader
            base_init(iterator, loader)

        @functools.wraps(multi_init)
        def workers_started(iterator: Any, loader: Any) -> None:
            nested = os.environ.get("PERFDOC_WORKER")
            os.environ["PERFDOC_WORKER"] = "1"
            try:
                multi_init(iterator, loader)
            finally:
                if nested is None:
                    os.environ.pop("PERFDOC_WORKER", None)

        def __next__(iterator: Any) -> Any:
            if not session.enabled:
                return loaders.original_next(iterator)
            return session.fetch(iterator)

        iterate = torch_dataloader.DataLoader.__iter__

        @functools.wraps(iterate)
        def __iter__(loader: Any) -> Any:
            if session.enabled and not loaders.is_twin(loader) and session.loaders.is_held(loader):
                return loaders.placeholder(loader)
            return iterate(loader)

        self._replace(torch_dataloader.DataLoader, "__iter__", __iter__)
        self._replace(base, "__init__", iterated)
        self._replace(loaders._MultiIter, "__init__", workers_started)
        self._replace(base, "__next__", __next__)

    def _optimizers(self) -> None:
        session, optimizer_init = self._session, torch_optimizer.Optimizer.__init__

        @functools.wraps(optimizer_init)
        def made(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            optimizer_init(optimizer, *args, **kwargs)
            if session.enabled:
                optimizer._perfdoc_made_at = session.places.made_here()  # type: ignore[attr-defined]

        self._replace(torch_optimizer.Optimizer, "__init__", made)

    def _backward(self) -> None:
        session, backward = self._session, torch.autograd.backward

        @functools.wraps(backward)
        def timed(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if not session.enabled or not session.clock.mine():
                backward(tensors, *args, **kwargs)
            else:
                session.backward(backward, tensors, args, kwargs)

        self._replace(torch.autograd, "backward", timed)

    def _grad(self) -> None:
        session, grad = self._session, torch.autograd.grad

        @functools.wraps(grad)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not session.enabled or not session.clock.mine():
                return grad(*args, **kwargs)
            session.clock.push(BACKWARD)
            try:
                return grad(*args, **kwargs)
            finally:
                session.clock.pop()

        self._replace(torch.autograd, "grad", timed)

    def _saving(self) -> None:
        """A model is saved as the user made it: some changes put functions into modules, which cannot be pickled."""
        session, save = self._session, torch.save

        @functools.wraps(save)
        def saved(*args: Any, **kwargs: Any) -> Any:
            conductor = session.conductor if session.enabled and session.ranks == 1 and session.clock.mine() else None
            if conductor is None or not conductor.config:
                return save(*args, **kwargs)
            conductor.pause()
            try:
                return save(*args, **kwargs)
            finally:
                conductor.resume()

        self._replace(torch, "save", saved)

    def _scheduler(self, cls: type) -> None:
        """While the loop is held, learning-rate schedules stand still: they must not be driven past their end."""
        session, step = self._session, cls.__dict__.get("step")
        if step is None:
            return

        @functools.wraps(step)
        def stepped(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            if session.holding and session.enabled:
                return None
            return step(scheduler, *args, **kwargs)

        self._replace(cls, "step", stepped)

    def time_transfers(self) -> None:
        """Time copies to the device; wrapped only once parameters are known to live on one."""
        session = self._session
        for name in ("to", "cuda"):
            original = getattr(torch.Tensor, name)

            def moved(tensor: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
                if not session.enabled or tensor.is_cuda or not session.clock.mine():
                    return _original(tensor, *args, **kwargs)
                session.clock.push(TRANSFER)
                try:
                    return _original(tensor, *args, **kwargs)
                finally:
                    session.clock.pop()

            self._replace(torch.Tensor, name, functools.wraps(original)(moved))
