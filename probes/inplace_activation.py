"""Treatment: activations that overwrite their input."""

from __future__ import annotations

from typing import Any

from torch import nn

from perfdoc.core.treatment import Level, Loop, Offer, Treatment

KINDS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.Hardswish, nn.SiLU, nn.Mish)


class InplaceActivation(Treatment):
    """``inplace=True`` for activation modules: saves the memory and the traffic of a copy.

    Never part of a plan by itself: where the input is used again (a residual branch) the numbers change without an error.
    """

    slug = "inplace_activation"
    title = "in-place activations"
    role = "trade_off"
    phases = ("forward",)

    def __init__(self) -> None:
        self._changed: list[Any] = []

    def offer(self, loop: Loop) -> Offer:
        """Offered where there are activation modules that copy."""
        found = [m for model in loop.models for m in model.modules() if isinstance(m, KINDS)]
        if not found:
            return Offer("not applicable", reason="no activation modules in the model")
        if all(m.inplace for m in found):
            return Offer("already on", reason="all activation modules work in place")
        return Offer("offered", (Level("on", "inplace=True in the activations"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Set the flag of every activation that copies."""
        for model in loop.models:
            for module in model.modules():
                if isinstance(module, KINDS) and not module.inplace:
                    module.inplace = True
                    self._changed.append(module)

    def restore(self, loop: Loop) -> None:
        """Clear the flags that were set."""
        while self._changed:
            self._changed.pop().inplace = False
