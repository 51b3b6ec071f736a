"""Treatment: a model of float64 in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class SinglePrecision(Treatment):
    """Parameters, buffers, optimizer state and batches of float64 as float32; never part of a plan, as it changes numbers.

    What is put back afterwards are the very tensors of before, so training under it leaves no trace.
    """

    slug = "single_precision"
    title = "float32 in place of float64"
    role = "trade_off"
    phases = ("forward", "loss", "backward", "optimizer")

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def offer(self, loop: Loop) -> Offer:
        """Offered where the model's own parameters are float64, and everything that holds such tensors is known."""
        if not any(is_double(p) for model in loop.models for p in model.parameters()):
            return Offer("not applicable", reason="no parameters of float64")
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks gradients are sent in buffers of float64: scan with one")
        if any(type(model).__name__ == "OptimizedModule" for model in loop.models):
            return Offer("untestable here", reason="the model is compiled for float64: scan without torch.compile")
        if any(isinstance(value, list | tuple | dict) for o in loop.optimizers for state in o.state.values()
               for value in state.values()):
            return Offer("untestable here", reason="the optimizer keeps float64 where it cannot be put back from")
        return Offer("offered", (Level("float32", "float32 in place of float64"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Convert what is there; what comes in later is converted on its way."""
        for tensor in _held(loop):
            self._convert(tensor)
        for optimizer in loop.optimizers:
            for state in optimizer.state.values():
                for name, value in list(state.items()):
                    if is_double(value):
                        self._undo.append(functools.partial(state.__setitem__, name, value))
                        state[name] = value.float()
        if torch.get_default_dtype() is torch.float64:
            self._undo.append(functools.partial(torch.set_default_dtype, torch.float64))
            torch.set_default_dtype(torch.float32)
        for handle in loop.loaders:
            handle.feed_settings(self.slug, {"collate_fn": Narrowed(handle.loader.collate_fn)})
            handle.feed_replayed(self.slug, narrowed)

    def _convert(self, tensor: Any) -> None:
        before, gradient = tensor.data, tensor.grad

        def put_back() -> None:
            tensor.grad = None
            tensor.data = before
            tensor.grad = gradient

        self._undo.append(put_back)
        tensor.grad = None
        tensor.data = before.float()
        if gradient is not None:
            tensor.grad = gradient.float()

    def restore(self, loop: Loop) -> None:
        """The tensors of before; state that optimizers have made meanwhile becomes float64."""
        while self._undo:
            self._undo.pop()()
        for optimizer in loop.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in list(state.items()):
                    made = isinstance(value, torch.Tensor) and value.dtype is torch.float32 and value.dim() > 0
                    if made and is_double(parameter) and value.shape == parameter.shape:
                        state[name] = value.double()
        for handle in loop.loaders:
            handle.feed_settings(self.slug, None)
            handle.feed_replayed(self.slug, None)

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Tensors that the script makes itself."""
        return narrowed(args), narrowed(kwargs)


def _held(loop: Loop) -> Iterator[Any]:
    """Tensors of float64 that models and optimizers hold, each once."""
    seen: set[int] = set()
    held = [p for optimizer in loop.optimizers for group in optimizer.param_groups for p in group["params"]]
    held += [tensor for model in loop.models for tensor in (*model.parameters(), *model.buffers())]
    for tensor in held:
        if is_double(tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def is_double(value: Any) -> bool:
    """Whether it is a tensor of float64."""
    return isinstance(value, torch.Tensor) and value.dtype is torch.float64


def narrowed(batch: Any) -> Any:
    """A batch with float32 for float64. Of objects that are no containers nothing is changed."""
    return pytree.tree_map(lambda leaf: leaf.float() if is_double(leaf) else leaf, batch)


class Narrowed:
    """A collate function whose batches hold no float64."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> Any:
        """The user's batch, converted."""
        return narrowed(self._collate(samples))
