"""Probe: autograd graphs that outlive their step."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop

LONGEST = 200_000
"""Nodes after which counting a graph stops."""


class RetainedGraph(Probe):
    """Counts, at a step's end, the autograd nodes that tensors of the script still hold, and how much they grew in a step.

    ``total_loss += loss`` keeps the graph of every step alive: the count grows by a whole step's nodes with every step. A
    loss variable that is overwritten holds one step's graph and does not grow.
    """

    slug = "retained_graph"
    provides = {"graph.nodes": "count"}

    def __init__(self) -> None:
        self._before: int | None = None

    def prepare(self, loop: Loop) -> None:
        """Count at the beginning of a step."""
        self._before = None
        self._before = _nodes()

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Nodes held before and after one step, in this order."""
        if self._before is None:
            return [Unavailable("graph.nodes", "the graphs could not be counted")]
        return [Measurement("graph.nodes", "count", (float(self._before), float(_nodes())))]


def _roots() -> Iterator[Any]:
    for found in gc.get_objects():
        # type(o) and not isinstance: lazy proxies run code when asked for their class.
        if issubclass(type(found), torch.Tensor) and found.grad_fn is not None:
            yield found.grad_fn


def _nodes() -> int:
    """Different autograd nodes reachable from the tensors that are alive."""
    seen: set[Any] = set()
    stack = list(_roots())
    while stack and len(seen) < LONGEST:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [parent for parent, _ in node.next_functions]
    return len(seen)
