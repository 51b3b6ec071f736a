"""Treatment: sparse gradients for large embeddings, and an optimizer that updates the rows of a batch alone."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import utils
from torch.optim import _functional

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe import user_source

from .dense_embedding import large_tables

PLAIN = (torch.optim.SGD, torch.optim.Adagrad)
"""Optimizers that take sparse gradients as they are, without weight decay and momentum."""
MOMENTS = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers in whose place SparseAdam updates the tables."""


class SparseEmbedding(Treatment):
    """``nn.Embedding(sparse=True)`` with SparseAdam in place of Adam; never part of a plan, as it changes training.

    Tables, their optimizer's state and its parameter groups are put back as they were, so training under it leaves no trace.
    """

    slug = "sparse_embedding"
    title = "sparse gradients for embeddings"
    role = "trade_off"
    phases = ("backward", "optimizer")

    def __init__(self) -> None:
        self._clipped = False
        self._undo: list[Callable[[], None]] = []
        self._moved: dict[int, list[tuple[Any, dict[str, Any], dict[str, Any]]]] = {}
        """By the optimizer's id: table, its parameter group, and its state, of those that SparseAdam updates."""

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Are gradients clipped? That cannot be done with sparse ones, and would end the script."""
        places = [(holder, name, getattr(holder, name)) for holder in (utils, utils.clip_grad)
                  for name in ("clip_grad_norm_", "clip_grad_value_")]
        for holder, name, original in places:
            setattr(holder, name, self._looked_at(original))

        def end() -> None:
            for holder, name, original in places:
                setattr(holder, name, original)

        return end

    def _looked_at(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(clip)
        def clipped(*args: Any, **kwargs: Any) -> Any:
            self._clipped = True
            return clip(*args, **kwargs)

        return clipped

    def offer(self, loop: Loop) -> Offer:
        """Offered for large tables of Adam, or of SGD and Adagrad without weight decay and momentum."""
        tables = [weight for _, weight in _tables(loop)]
        if not tables:
            return Offer("not applicable", reason="no large embedding has a gradient of its own")
        if loop.ranks > 1:
            return Offer("untestable here", reason="with several ranks gradients are sent in buffers: scan with one")
        found = {id(p): (optimizer, group) for optimizer, group, p in _held(loop)}
        if any(id(weight) not in found for weight in tables):
            return Offer("not applicable", reason="no optimizer of torch's own updates the table")
        for weight in tables:
            why = _why_not(*found[id(weight)], weight)
            if why:
                return Offer("not applicable", reason=why)
        if self._clipped or user_source.places(reads_gradients):
            return Offer("untestable here", reason="the script clips or reads gradients, which sparse ones do not all allow")
        moments = any(isinstance(found[id(weight)][0], MOMENTS) for weight in tables)
        change = "nn.Embedding(..., sparse=True)" + (" and SparseAdam for it" if moments else "")
        return Offer("offered", (Level("on", change),))

    def apply(self, loop: Loop, level: str) -> None:
        """Ask the tables for sparse gradients, and take those of Adam over from it."""
        found = {id(p): (optimizer, group) for optimizer, group, p in _held(loop)}
        for module, weight in _tables(loop):
            optimizer, group = found[id(weight)]
            self._keep(weight, optimizer)
            module.sparse = True
            self._undo.append(lambda module=module: setattr(module, "sparse", False))  # type: ignore[misc]
            if isinstance(optimizer, MOMENTS):
                place = next(i for i, p in enumerate(group["params"]) if p is weight)
                del group["params"][place]
                self._undo.append(lambda g=group, i=place, w=weight: g["params"].insert(i, w))  # type: ignore[misc]
                self._moved.setdefault(id(optimizer), []).append((weight, group, optimizer.state[weight]))

    def _keep(self, weight: Any, optimizer: Any) -> None:
        """Values and gradient of a table, and its state, to be put back."""
        value, gradient = weight.detach().clone(), weight.grad
        state = optimizer.state.get(weight, {})
        kept = {name: part.detach().clone() if isinstance(part, torch.Tensor) else part for name, part in state.items()}

        def put_back() -> None:
            with torch.no_grad():
                weight.copy_(value)
                for name, part in kept.items():
                    if isinstance(part, torch.Tensor):
                        state[name].copy_(part)
                    else:
                        state[name] = part
            weight.grad = gradient

        self._undo.append(put_back)
        weight.grad = None

    def restore(self, loop: Loop) -> None:
        """Dense gradients, and every table with the optimizer that had it."""
        self._moved.clear()
        while self._undo:
            self._undo.pop()()

    def after_optimizer(self, optimizer: Any) -> None:
        """The user's optimizer has stepped: the tables that it does not hold now take their step."""
        for weight, group, state in self._moved.get(id(optimizer), ()):
            if weight.grad is None:
                continue
            gradient = weight.grad if weight.grad.is_sparse else weight.grad.to_sparse(1)
            state["step"] += 1
            with torch.no_grad():
                _functional.sparse_adam(
                    [weight], [gradient.coalesce()], [state["exp_avg"]], [state["exp_avg_sq"]], [int(state["step"])],
                    eps=group["eps"], beta1=group["betas"][0], beta2=group["betas"][1], lr=float(group["lr"]),
                    maximize=group["maximize"],
                )
            weight.grad = None  # zero_grad of the user's optimizer does not reach it


def _tables(loop: Loop) -> list[tuple[Any, Any]]:
    """Large tables whose weight is no other module's, with it."""
    names: dict[int, int] = {}
    for model in loop.models:
        for _, parameter in model.named_parameters(remove_duplicate=False):
            names[id(parameter)] = names.get(id(parameter), 0) + 1
    return [(module, module.weight) for _, module in large_tables(loop) if names.get(id(module.weight)) == 1
            and module.max_norm is None]


def _held(loop: Loop) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """Parameters with their optimizer and group."""
    for optimizer in loop.optimizers:
        if type(optimizer) in (*PLAIN, *MOMENTS):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield optimizer, group, parameter


def reads_gradients(node: ast.AST) -> bool:
    """``p.grad``; not ``torch.autograd.grad``."""
    holder = getattr(node, "value", None)
    return isinstance(node, ast.Attribute) and node.attr == "grad" and getattr(
        holder, "attr", getattr(holder, "id", "")) != "autograd"


def _why_not(optimizer: Any, group: dict[str, Any], weight: Any) -> str:
    """Why an optimizer's table cannot have sparse gradients; empty where it can."""
    name = type(optimizer).__name__
    if isinstance(optimizer, MOMENTS):
        if group.get("amsgrad") or group.get("capturable") or group.get("differentiable"):
            return f"SparseAdam has no counterpart of this {name}'s settings"
        state = optimizer.state.get(weight, {})
        return "" if {"step", "exp_avg", "exp_avg_sq"} <= set(state) else f"{name} has not updated the table yet"
    if group.get("weight_decay") or group.get("momentum") or group.get("lr_decay") or group.get("fused"):
        return f"{name} takes sparse gradients only without weight decay and momentum"
    return ""
