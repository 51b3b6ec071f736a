"""Treatment: the optimizer steps only every few batches."""

from __future__ import annotations

from typing import Any

from perfdoc.treatment import Level, Loop, Offer, Treatment

STEPS = (2, 4)
"""Batches whose gradients are added up before the optimizer steps."""


class GradientAccumulation(Treatment):
    """Gradients of two or four batches are added up, then the optimizer steps once. Never part of a plan.

    A call that is left out runs with empty parameter groups: hooks, schedulers and the user's code see an ordinary call, and
    ``zero_grad`` after it finds nothing to clear. The groups are whole again before the next backward ends.
    """

    slug = "gradient_accumulation"
    title = "gradient accumulation"
    numerics = False
    planned = False
    phases = ("optimizer",)

    def __init__(self) -> None:
        self._every = 1
        self._calls: dict[int, int] = {}
        self._emptied: list[tuple[dict[str, Any], list[Any]]] = []

    def offer(self, loop: Loop) -> Offer:
        """Offered for loops with an optimizer that does not go over the batch itself."""
        if not loop.optimizers:
            return Offer("not applicable", reason="parameters are updated by hand")
        already = max((handle.batches_a_step for handle in loop.loaders), default=1)
        if already > 1:
            return Offer("already on", reason=f"{already} batches a step")
        if any(type(optimizer).__name__ == "LBFGS" for optimizer in loop.optimizers):
            return Offer("not applicable", reason="LBFGS runs the batch several times within its step")
        if len(loop.optimizers) > 1:
            return Offer("not applicable", reason="several optimizers take turns")
        return Offer("offered", tuple(
            Level(f"x{count}", f"optimizer.step() every {count} batches, loss / {count}") for count in STEPS
        ))

    def apply(self, loop: Loop, level: str) -> None:
        """Count the optimizer's calls from here on."""
        self._every = int(level.removeprefix("x"))
        self._calls.clear()

    def on_optimizer(self, optimizer: Any) -> None:
        """Every call but the last of a round finds nothing to do."""
        self._fill()
        count = self._calls[id(optimizer)] = self._calls.get(id(optimizer), 0) + 1
        if self._every > 1 and count % self._every:
            for group in optimizer.param_groups:
                self._emptied.append((group, group["params"]))
                group["params"] = []

    def on_backward(self, tensors: Any) -> Any:
        """What clears gradients before this is over; what reads the groups (clipping) comes after."""
        self._fill()
        return tensors

    def _fill(self) -> None:
        while self._emptied:
            group, parameters = self._emptied.pop()
            group["params"] = parameters

    def restore(self, loop: Loop) -> None:
        """The groups as they were; gradients that were added up so far go into the next step."""
        self._fill()
        self._every = 1
