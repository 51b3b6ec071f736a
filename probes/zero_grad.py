"""Treatment: gradients are dropped between steps instead of being filled with zeros."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class ZeroGrad(Treatment):
    """``zero_grad(set_to_none=True)``, the default since torch 2.0, where the script asks for zeros."""

    slug = "zero_grad"
    title = "gradients set to None"
    phases = ("other", "backward")

    def __init__(self) -> None:
        self._before: list[tuple[Any, Any]] = []
        self._zeros = False

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Does the script write zeros to gradients, and where?"""
        undo = contextlib.ExitStack()
        for owner in (torch.optim.Optimizer, nn.Module):
            original: Any = owner.zero_grad

            def zeroed(owned: Any, set_to_none: bool = True, *, _original: Any = original) -> None:
                if not set_to_none:
                    self._zeros = True
                    loop.note_zero_grad()
                _original(owned, set_to_none)

            owner.zero_grad = functools.wraps(original)(zeroed)  # type: ignore[method-assign]
            undo.callback(setattr, owner, "zero_grad", original)
        return undo.close

    def offer(self, loop: Loop) -> Offer:
        """Offered only where ``set_to_none=False`` was seen."""
        if not self._zeros:
            return Offer("not applicable", reason="gradients are not filled with zeros: set_to_none is the default")
        return Offer("offered", (Level("on", "zero_grad(set_to_none=True)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Whatever the script asks for, gradients become None."""
        for kind in (torch.optim.Optimizer, nn.Module):
            original = kind.zero_grad
            self._before.append((kind, original))

            def zero_grad(self: Any, set_to_none: bool = True, _original: Any = original) -> None:
                _original(self, set_to_none=True)

            kind.zero_grad = zero_grad  # type: ignore[method-assign, assignment]

    def restore(self, loop: Loop) -> None:
        """Give the methods back."""
        while self._before:
            kind, original = self._before.pop()
            kind.zero_grad = original
