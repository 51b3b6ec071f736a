"""Probe: large embedding tables of which a step uses few rows, and what going through all of them costs."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import nn

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.unsaved import Unsaved
from perfdoc.inject.observe import user_source

LARGE = 1_000_000
"""Minimum number of entries of a table: going through a smaller one takes less than a millisecond."""
REPEATS = 4
"""Times that a table's gradient is made; the first one is left out."""
MOST_BYTES = 2**30
"""Maximum size of a gradient that is made beside the loop, in bytes."""
MOST_CALLS = 8
"""Maximum number of calls of a table in a step that are repeated."""


class _Table:
    """A table, and what was seen of it in the step that was watched."""

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.module = module
        self.indices: list[Any] = []
        self.rows_used: int | None = None
        self.kept = module.weight.grad
        """Its gradient before the step: where that is filled with zeros and used again, that costs time as well."""

    def called(self, module: Any, args: Any, output: Any) -> None:
        """The table was looked into."""
        if torch.is_grad_enabled() and len(self.indices) < MOST_CALLS and args:
            self.indices.append(args[0].detach())

    def accumulated(self, weight: Any) -> None:
        """Its gradient is there, or one more part of it."""
        gradient = weight.grad
        if gradient is not self.kept:
            self.kept = None
        if gradient is not None and gradient.layout is torch.strided:
            self.rows_used = int((gradient != 0).any(1).sum())


class DenseEmbedding(Probe):
    """Share of a table's rows that get a gradient in a step, the seconds to make that gradient for all rows, and the table's
    share of the parameters that optimizers hold.

    Counted in the gradients of one watched step; the gradient is then made again from the same indices, beside the loop.
    """

    slug = "dense_embedding"
    provides = {"embedding.rows_used": "1", "embedding.backward": "s", "embedding.parameters": "1"}

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._tables: list[_Table] = []

    def prepare(self, loop: Loop) -> None:
        """Hook the large tables for one step."""
        self._take_back()
        self._tables = [_Table(name, module) for name, module in large_tables(loop)]
        for table in self._tables:
            self._handles.append(table.module.register_forward_hook(Unsaved(table.called)))
            self._handles.append(table.module.weight.register_post_accumulate_grad_hook(table.accumulated))

    def _take_back(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """What was seen of each table since :meth:`prepare`."""
        self._take_back()
        tables, self._tables = self._tables, []
        seen = [table for table in tables if table.rows_used is not None and table.indices]
        if not seen:
            why = "no gradient of a large table was seen" if tables else f"no embedding of {LARGE:,} entries or more is trained"
            return [Unavailable(metric, why) for metric in self.provides]
        parameters = {id(p): p.numel() for optimizer in loop.optimizers for group in optimizer.param_groups
                      for p in group["params"]}
        found: list[Measurement | Unavailable] = []
        sites = made_at([table.name for table in seen])
        for table in seen:
            rows, width = table.module.weight.shape
            about = {"table": table.name, "rows": rows, "width": width, "site": sites.get(table.name, "")}
            held = parameters.get(id(table.module.weight), 0) / max(1, sum(parameters.values()))
            assert table.rows_used is not None
            found += [
                Measurement("embedding.rows_used", "1", (table.rows_used / rows,), about),
                Measurement("embedding.parameters", "1", (held,), about),
                _backward(table, loop.device, about),
            ]
        return found


def large_tables(loop: Loop) -> list[tuple[str, Any]]:
    """Names and modules of the large embeddings that are trained with dense gradients; those of a compiled model left out."""
    found: dict[int, tuple[str, Any]] = {}
    for model in loop.models:
        if type(model).__name__ == "OptimizedModule":
            continue  # a hook would have it compiled anew
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding) and not module.sparse and module.weight.requires_grad and (
                module.weight.numel() >= LARGE
            ):
                found.setdefault(id(module.weight), (name or type(module).__name__, module))
    return list(found.values())


def _backward(table: _Table, device: str, about: Mapping[str, str | int | float]) -> Measurement | Unavailable:
    """Seconds a step for the dense gradient of a table, all calls together."""
    weight = table.module.weight
    if weight.numel() * weight.element_size() > MOST_BYTES:
        return Unavailable("embedding.backward", f"the gradient of {table.name} takes more than 1 GiB")
    outer = [torch.ones(*indices.shape, weight.shape[1], dtype=weight.dtype, device=weight.device) for indices in table.indices]
    padding = -1 if table.module.padding_idx is None else table.module.padding_idx
    total = torch.zeros_like(weight) if table.kept is not None else None
    table.kept = None
    fresh, kept, seconds = weight.numel() * weight.element_size() * REPEATS <= MOST_BYTES, [], []
    for _ in range(REPEATS):
        _wait(device)
        start = perf_counter()
        made = _gradient(table.indices, outer, len(weight), padding, table.module.scale_grad_by_freq, total)
        _wait(device)
        seconds.append(perf_counter() - start)
        if fresh:
            kept.append(made)  # the next one is made in memory that nobody has touched, as in a step that frees its gradients
        del made
    return Measurement("embedding.backward", "s", tuple(seconds[1:]), about, "measured in isolation")


def _gradient(
    indices: list[Any], outer: list[Any], rows: int, padding: int, by_frequency: bool, total: torch.Tensor | None
) -> torch.Tensor | None:
    """As autograd makes it: a matrix of all rows for each call, added to the first, or to ``total``, which is zeroed before."""
    if total is not None:
        total.zero_()
    for given, at in zip(outer, indices, strict=True):
        dense = torch.ops.aten.embedding_dense_backward(given, at, rows, padding, by_frequency)
        total = dense if total is None else total.add_(dense)
    return total


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def made_at(names: Collection[str]) -> dict[str, str]:
    """``file:line`` where the tables of these names are made in the user's source; without those of which that is not clear.

    By the attribute that holds a table, or the list that does: ``self.users = nn.Embedding(...)``. Where only one table is made
    at all, it is that one.
    """
    assigned: dict[str, str] = {}
    everywhere: list[str] = []
    for path, tree in user_source.trees():
        for node in ast.walk(tree):
            line = getattr(node, "lineno", 0)
            if makes_table(node):
                everywhere.append(f"{path}:{line}")
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            value = getattr(node, "value", None)
            if targets and value is not None and any(makes_table(part) for part in ast.walk(value)):
                for target in targets:
                    assigned.setdefault(getattr(target, "attr", getattr(target, "id", "")), f"{path}:{line}")
    only = everywhere[0] if len(everywhere) == 1 else ""
    places = {name: assigned.get(_attribute(name), only) for name in names}
    return {name: place for name, place in places.items() if place}


def _attribute(name: str) -> str:
    """``fields`` of ``model.fields.2``."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), "")


def makes_table(node: ast.AST) -> bool:
    """``nn.Embedding(...)`` or ``nn.Embedding.from_pretrained(...)``."""
    name = user_source.called(node)
    return name == "Embedding" or (name == "from_pretrained" and "Embedding" in ast.dump(getattr(node, "func", node)))
