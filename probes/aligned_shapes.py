"""Probe: what layers with odd sizes would gain from being padded to sizes that matrix units like."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.unsaved import Unsaved

MULTIPLE = 8
"""Sizes that 16-bit matrix units want (NVIDIA, Deep Learning Performance: Matrix Multiplication Background, section 2.1)."""
PADDED = 64
"""What a size is padded to: a multiple that is good for all units (the same source; nanoGPT pads its vocabulary so)."""
WORTH_A_LOOK = 0.05
"""Share of the model's parameters below which a layer is passed by: the large ones are where time goes."""
MOST_LAYERS = 3
PAIRS = 12
LAYER_SECONDS = 1.0
"""At most so long for one layer."""


class AlignedShapes(Probe):
    """Times forward and backward of large linear layers with odd sizes, as they are and padded, in isolation.

    The number of rows is what the layer got in a step that was watched; the precision is the loop's. What padding costs
    elsewhere (a sliced output) is not in it.
    """

    slug = "aligned_shapes"
    provides = {"alignment.saved": "s"}

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._rows: dict[str, tuple[Any, int, int]] = {}
        self._autocast = False

    def prepare(self, loop: Loop) -> None:
        """See what large odd layers get in one step."""
        self._rows.clear()
        self._autocast = False
        total = sum(p.numel() for model in loop.models for p in model.parameters()) or 1
        for model in loop.models:
            for name, module in model.named_modules():
                odd = isinstance(module, nn.Linear) and any(size % MULTIPLE for size in module.weight.shape)
                if odd and module.weight.numel() > WORTH_A_LOOK * total:
                    saw = Unsaved(self._saw(name or type(module).__name__))
                    self._handles.append(module.register_forward_pre_hook(saw))

    def _saw(self, name: str) -> Callable[[Any, Any], None]:
        def ran(module: Any, inputs: Any) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and torch.is_grad_enabled():
                rows = inputs[0].numel() // max(1, inputs[0].shape[-1])
                self._autocast = self._autocast or torch.is_autocast_enabled(module.weight.device.type)
                known = self._rows.get(name)
                self._rows[name] = (module, rows, 1 + (known[2] if known else 0))

        return ran

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Seconds a step that padding saves, in alternating pairs, one measurement a layer."""
        while self._handles:
            self._handles.pop().remove()
        seen, self._rows = self._rows, {}
        if not seen:
            return [Unavailable("alignment.saved", "no large linear layer with odd sizes ran in the step that was watched")]
        largest = sorted(seen.items(), key=lambda entry: -entry[1][0].weight.numel() * entry[1][1])[:MOST_LAYERS]
        return [
            Measurement("alignment.saved", "s", tuple(_saved(module, rows, calls, loop, self._autocast)), {
                "layer": name, "rows": rows, "shape": _said(module.weight.shape), "padded": _said(_up(module.weight.shape)),
            }, "measured in isolation")
            for name, (module, rows, calls) in largest
        ]


def _said(shape: Any) -> str:
    return " x ".join(str(size) for size in shape)


def _up(shape: Any) -> tuple[int, ...]:
    return tuple(size if size % MULTIPLE == 0 else -(-size // PADDED) * PADDED for size in shape)


def _saved(module: Any, rows: int, calls: int, loop: Loop, autocast: bool) -> list[float]:
    """Paired differences of seconds a step, the layer as it is minus padded."""
    weight = module.weight
    dtype = torch.bfloat16 if autocast else weight.dtype
    runs = []
    for shape in (tuple(weight.shape), _up(weight.shape)):
        w = torch.randn(shape, device=weight.device, dtype=dtype, requires_grad=True)
        runs.append((torch.randn(rows, shape[1], device=weight.device, dtype=dtype, requires_grad=True), w))

    def seconds(x: Any, w: Any) -> float:
        _wait(loop)
        start = perf_counter()
        functional.linear(x, w).sum().backward()
        _wait(loop)
        taken = perf_counter() - start
        x.grad = w.grad = None
        return taken

    for x, w in runs:
        seconds(x, w)
    found: list[float] = []
    until = perf_counter() + LAYER_SECONDS
    while len(found) < PAIRS and (len(found) < 4 or perf_counter() < until):
        order = random.sample((0, 1), 2)
        times = {place: seconds(*runs[place]) for place in order}
        found.append(calls * (times[0] - times[1]))
    return found


def _wait(loop: Loop) -> None:
    if loop.device == "cuda":
        torch.cuda.synchronize()
