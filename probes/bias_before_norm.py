"""Probe: biases that the batch norm right after them takes out again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.unsaved import Unsaved

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Norms that subtract the mean of each channel over the batch: a constant added to the channel before is lost."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


class BiasBeforeNorm(Probe):
    """Watches one forward and backward pass: which layers' outputs go, as they are, into a batch norm in training mode.

    What is seen is the executed graph (the very tensor that the layer returned is the norm's input), not the order in which
    modules were written. The biases' gradients of that step are compared with their weights'.
    """

    slug = "bias_before_norm"
    provides = {"bias.before_norm": "count", "bias.dead_gradient": "1"}

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._made: dict[int, tuple[weakref.ref[Any], str, Any]] = {}
        self._found: dict[str, Any] = {}
        self._norms = 0

    def prepare(self, loop: Loop) -> None:
        """Hook layers and norms for one step."""
        self._made.clear()
        self._found.clear()
        self._norms = 0
        for model in loop.models:
            for name, module in model.named_modules():
                if isinstance(module, LAYERS) and module.bias is not None:
                    self._handles.append(module.register_forward_hook(Unsaved(self._layer(name))))
                elif isinstance(module, NORMS):
                    self._handles.append(module.register_forward_pre_hook(Unsaved(self._norm)))

    def _layer(self, name: str) -> Callable[[Any, Any, Any], None]:
        def ran(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                self._made[id(output)] = (weakref.ref(output), name, module)

        return ran

    def _norm(self, module: Any, inputs: Any) -> None:
        if not module.training or not inputs:
            return
        self._norms += 1
        made = self._made.get(id(inputs[0]))
        if made is not None and made[0]() is inputs[0]:
            self._found[made[1]] = made[2]

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """How many layers, their names, and the size of their biases' gradients relative to their weights'."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._made.clear()
        if not self._norms:
            return [Unavailable(metric, "no batch norm ran in training mode") for metric in self.provides]
        names = ", ".join(list(self._found)[:8]) + (", ..." if len(self._found) > 8 else "")
        found: list[Measurement | Unavailable] = [
            Measurement("bias.before_norm", "count", (float(len(self._found)),), {"layers": names})
        ]
        sizes = []
        for module in self._found.values():
            if module.bias.grad is not None and module.weight.grad is not None:
                weight = float(module.weight.grad.norm()) / module.weight.grad.numel() ** 0.5
                bias = float(module.bias.grad.norm()) / module.bias.grad.numel() ** 0.5
                if weight > 0:
                    sizes.append(bias / weight)
        if sizes:
            found.append(Measurement("bias.dead_gradient", "1", tuple(sizes)))
        else:
            found.append(Unavailable("bias.dead_gradient", "no gradients were left to look at after the step"))
        self._found.clear()
        return found
