"""Treatment: the optimizer steps only every few batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from perfdoc.core.treatment import Level, Loop, Offer, Treatment

STEPS = (2, 4)
"""Batches whose gradients are added up before the optimizer steps."""


class GradientAccumulation(Treatment):
    """Gradients of two or four batches are added up, then the optimizer steps once. Never part of a plan.

    A call that is left out runs with empty parameter groups: hooks, schedulers and the user's code see an ordinary call. Right
    after it they are whole again, and ``zero_grad`` clears nothing until the next backward has begun.
    """

    slug = "gradient_accumulation"
    title = "gradient accumulation"
    numerics = False
    role = "trade_off"
    phases = ("optimizer",)

    def __init__(self) -> None:
        self._every = 1
        self._calls: dict[int, int] = {}
        self._emptied: list[tuple[dict[str, Any], list[Any]]] = []
        self._keeps = False
        self._closure = False
        self._patched: list[Any] = []

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Is an optimizer given a closure that computes the loss (LBFGS, Lightning)?"""
        def stepping(optimizer: Any, args: Any, kwargs: Any) -> None:
            self._closure = self._closure or any(callable(value) for value in (*args, *kwargs.values()))

        hook: Callable[[], None] = register_optimizer_step_pre_hook(stepping).remove
        return hook

    def offer(self, loop: Loop) -> Offer:
        """Offered for loops with an optimizer that does not go over the batch itself."""
        if not loop.optimizers:
            return Offer("not applicable", reason="parameters are updated by hand")
        already = max((handle.batches_a_step for handle in loop.loaders), default=1)
        if already > 1:
            return Offer("already on", reason=f"{already} batches a step")
        if any(type(optimizer).__name__ == "LBFGS" for optimizer in loop.optimizers):
            return Offer("not applicable", reason="LBFGS runs the batch several times within its step")
        if self._closure:
            return Offer("not applicable", reason="the optimizer's step runs forward and backward itself (a closure)")
        if len(loop.optimizers) > 1:
            return Offer("not applicable", reason="several optimizers take turns")
        return Offer("offered", tuple(
            Level(f"x{count}", f"optimizer.step() every {count} batches, loss / {count}") for count in STEPS
        ))

    def apply(self, loop: Loop, level: str) -> None:
        """Count the optimizer's calls from here on; a round that another block began goes on."""
        self._every = int(level.removeprefix("x"))
        for optimizer in loop.optimizers:
            original = optimizer.zero_grad

            def zero_grad(set_to_none: bool = True, _original: Any = original) -> None:
                if not self._keeps:
                    _original(set_to_none=set_to_none)

            if "zero_grad" not in vars(optimizer):
                optimizer.zero_grad = zero_grad
                self._patched.append(optimizer)

    def period(self, level: str) -> int:
        """Steps of a round."""
        return int(level.removeprefix("x"))

    def on_optimizer(self, optimizer: Any) -> None:
        """Every call but the last of a round finds nothing to do."""
        count = self._calls[id(optimizer)] = self._calls.get(id(optimizer), 0) + 1
        if self._every > 1 and count % self._every:
            for group in optimizer.param_groups:
                self._emptied.append((group, group["params"]))
                group["params"] = []
            self._keeps = True

    def after_optimizer(self, optimizer: Any) -> None:
        """The groups as they were."""
        self._fill()

    def on_backward(self, tensors: Any) -> Any:
        """From here on gradients are added to what was kept; what clears them comes before the next backward."""
        self._keeps = False
        return tensors

    def _fill(self) -> None:
        while self._emptied:
            group, parameters = self._emptied.pop()
            group["params"] = parameters

    def restore(self, loop: Loop) -> None:
        """The groups as they were; gradients that were added up so far go into the next step."""
        self._fill()
        self._keeps, self._every = False, 1
        while self._patched:
            del self._patched.pop().zero_grad
