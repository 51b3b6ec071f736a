"""Finds the outermost modules of a loop and wraps their calls, also when ``model.forward(...)`` is called directly.

Two stages. While the loop is being observed, ``nn.Module.__call__`` is wrapped, to see which modules are called from
outside any other module. Then that wrapper goes, and the ``forward`` of just those modules' classes is wrapped: cheap for
the rest of the model, safe for ``deepcopy`` and pickling (nothing is stored on instances), and transparent to
``torch.compile``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

Entry = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called for an outermost call: ``entry(module, forward, args, kwargs)`` where ``forward`` takes args and kwargs."""


def trained_parents(parameters: Iterable[Any]) -> list[Any]:
    """The outermost modules that hold any of ``parameters``: those that are in no other module."""
    wanted = {id(p) for p in parameters}
    # type(o) and not isinstance: lazy proxies (hydra, werkzeug...) run code when asked for their class.
    modules = [o for o in gc.get_objects() if issubclass(type(o), nn.Module)]
    inside = {id(child) for module in modules for child in module.__dict__.get("_modules", {}).values()}
    found = []
    for module in modules:
        if id(module) not in inside:
            try:
                if any(id(p) in wanted for p in module.parameters()):
                    found.append(module)
            except Exception:  # half-built modules of other threads, exotic subclasses: not the one that trains
                continue
    return found


class OutermostCalls:
    """Routes outermost module calls of the training thread through ``entry``."""

    def __init__(self, entry: Entry, mine: Callable[[], bool]) -> None:
        self._entry = entry
        self._mine = mine
        self._depth = 0
        self._original_call: Any = None
        self._wrapped: dict[type, Any] = {}
        self.seen: dict[int, Any] = {}
        """Modules called from outside any other, by id."""

    def observe(self) -> None:
        """First stage: wrap ``nn.Module.__call__``."""
        calls = self
        original = nn.Module.__call__
        self._original_call = original

        def __call__(module: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or calls._depth or not calls._mine():
                return original(module, *args, **kwargs)
            # Inside backward it is checkpointing that calls parts of the model again.
            if torch._C._current_graph_task_id() == -1:
                calls.seen.setdefault(id(module), module)
            calls._depth += 1
            try:
                return calls._entry(module, lambda *a, **k: original(module, *a, **k), args, kwargs)
            finally:
                calls._depth -= 1

        nn.Module.__call__ = __call__  # type: ignore[method-assign,assignment]

    def narrow(self, parents: Iterable[Any]) -> None:
        """Second stage: wrap ``forward`` of the classes seen, and of the trained outermost modules."""
        self.release_call()
        for module in [*self.seen.values(), *parents]:
            self._wrap(type(module))

    def release_call(self) -> None:
        """Give ``nn.Module.__call__`` back."""
        if self._original_call is not None:
            nn.Module.__call__ = self._original_call  # type: ignore[method-assign]
            self._original_call = None

    def _wrap(self, cls: type) -> None:
        # Compiled modules carry their forward on the instance: their __call__ is what can be seen.
        name = "__call__" if cls.__name__ == "OptimizedModule" else "forward"
        original = getattr(cls, name, None)
        if cls in self._wrapped or original is None or getattr(original, "_perfdoc", False):
            return
        calls, is_compiling = self, torch.compiler.is_compiling
        own = name in cls.__dict__

        def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or calls._depth or not calls._mine():
                return original(module, *args, **kwargs)
            calls._depth += 1
            try:
                return calls._entry(module, partial(original, module), args, kwargs)
            finally:
                calls._depth -= 1

        # Libraries read forward's signature (HF Trainer removes columns that it does not name).
        forward.__wrapped__ = original  # type: ignore[attr-defined]
        forward.__name__ = getattr(original, "__name__", name)
        forward.__qualname__ = getattr(original, "__qualname__", name)
        forward.__doc__ = getattr(original, "__doc__", None)
        forward._perfdoc = True  # type: ignore[attr-defined]
        setattr(cls, name, forward)
        self._wrapped[cls] = (name, original, own)

    def release(self) -> None:
        """Undo everything."""
        self.release_call()
        for cls, (name, original, own) in self._wrapped.items():
            if own:
                setattr(cls, name, original)
            else:
                delattr(cls, name)
        self._wrapped.clear()
