"""Treatment: gradients are dropped between steps instead of being filled with zeros."""

from __future__ import annotations

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

    def offer(self, loop: Loop) -> Offer:
        """Offered only where ``set_to_none=False`` was seen."""
        if not loop.zeroing_seen:
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
