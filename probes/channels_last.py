"""Treatment: channels_last memory format for convolutional networks: parameters, buffers, optimizer state and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class ChannelsLast(Treatment):
    """``model.to(memory_format=torch.channels_last)`` and the same for the model's 4-D inputs; undone stride by stride."""

    slug = "channels_last"
    title = "channels_last memory format"
    interacts = ("autocast",)
    phases = ("forward", "backward")

    def __init__(self) -> None:
        self._strides: list[tuple[torch.Tensor, tuple[int, ...]]] = []
        self._grads: list[tuple[torch.Tensor, tuple[int, ...]]] = []
        self._on = False

    def offer(self, loop: Loop) -> Offer:
        """Offered where there are 2-D convolutions whose weights are stored contiguously."""
        convolutions = [
            m for model in loop.models for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
        ]
        # A 1x1 kernel has the same strides in both formats: such weights say nothing.
        telling = [m.weight for m in convolutions if m.weight.shape[2:] != (1, 1) and m.weight.shape[1] > 1]
        if not convolutions:
            return Offer("not applicable", reason="no 2-D convolutions in the model")
        if telling and all(w.is_contiguous(memory_format=torch.channels_last) for w in telling):
            return Offer("already on", reason="the convolutions' weights are stored as channels_last")
        return Offer("offered", (Level("on", "channels_last"),))

    def _tensors(self, loop: Loop) -> Iterator[torch.Tensor]:
        """Storage of every 4-D parameter, buffer and optimizer state; gradients live with their parameters."""
        seen: set[int] = set()
        parameters: set[int] = set()
        for model in loop.models:
            for tensor in (*model.parameters(), *model.buffers()):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    parameters.add(id(tensor))
                    if tensor.dim() == 4:
                        yield tensor
        for optimizer in loop.optimizers:
            for parameter, state in optimizer.state.items():
                if id(parameter) in parameters:
                    for value in state.values():
                        if isinstance(value, torch.Tensor) and value.dim() == 4 and id(value) not in seen:
                            seen.add(id(value))
                            yield value

    def apply(self, loop: Loop, level: str) -> None:
        """Convert in place: the Parameter objects stay the same, only their storage changes."""
        self._on = True
        with torch.no_grad():
            for tensor in self._tensors(loop):
                self._strides.append((tensor, tensor.stride()))
                _restride(tensor, tensor.data.contiguous(memory_format=torch.channels_last))

    def restore(self, loop: Loop) -> None:
        """Give every tensor the strides it had, with the values it has now."""
        self._on = False
        with torch.no_grad():
            for tensor, stride in reversed(self._strides):
                back = torch.empty_strided(tuple(tensor.shape), stride, dtype=tensor.dtype, device=tensor.device)
                _restride(tensor, back.copy_(tensor.data))
        self._strides.clear()

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Inputs with a batch, a channel and two spatial dimensions go in as channels_last."""
        if not self._on:
            return args, kwargs
        return tuple(_last(a) for a in args), {name: _last(value) for name, value in kwargs.items()}


def _restride(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Give a tensor another storage; a gradient it holds gets the same strides, or accumulation would mix formats."""
    grad = tensor.grad if tensor.is_leaf else None
    tensor.data = data
    if grad is not None and grad.dim() == 4 and grad.shape == data.shape and grad.stride() != data.stride():
        grad.data = torch.empty_strided(
            tuple(data.shape), data.stride(), dtype=grad.dtype, device=grad.device
        ).copy_(grad.data)


def _last(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dim() == 4 and value.is_floating_point():
        return value.contiguous(memory_format=torch.channels_last)
    return value
