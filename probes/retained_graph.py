"""Probe: autograd graphs that outlive their step, who holds them, and where that is fed."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

import torch

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.user_code import calling_site
from perfdoc.inject.observe.holders import ADDED, ITSELF, Holder, holders_of

LONGEST = 200_000
"""Nodes after which counting a graph stops."""
ROUNDS = 2
"""Times that a step is watched: looking through all living objects takes some tenths of a second in large processes."""
MOST_ROOTS = 64
"""Maximum number of tensors whose holders are looked for."""
CHAIN = 0.9
"""Minimum share of the largest graph that a tensor's own graph has for it to hold the whole of it."""
SHORT_CHAIN = 8
"""Maximum number of nodes that are left out of a graph near its end: of a mean that is made of a sum."""


class RetainedGraph(Probe):
    """Counts, at a step's end, the autograd nodes that tensors of the script still hold, and how much they grew in a step.

    ``total_loss += loss`` keeps the graph of every step alive: the count grows by a whole step's nodes with every step. A
    loss variable that is overwritten holds one step's graph and does not grow. Where it grows, the variable or the attribute
    that holds it is named, and where that is filled in a method, the line that calls it.
    """

    slug = "retained_graph"
    provides = {"graph.nodes": "count", "graph.holder": "count"}
    each_round = True

    def __init__(self) -> None:
        self._before: int | None = None
        self._rounds = 0
        self._holder: Holder | None = None
        self._unwrap: Callable[[], None] | None = None
        self._fed: list[str] = []

    def prepare(self, loop: Loop) -> None:
        """Count at the beginning of a step; see where what may hold graphs from step to step is fed."""
        self._before = None
        if self._rounds < ROUNDS:
            roots = _roots()
            self._before = len(_reached(root.grad_fn for root in roots))
            holder = self._holder or _holder(roots)
            self._holder = holder if holder is not None and holder.how in (ITSELF, ADDED) else None
            self._watch_feeding()

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Nodes held before and after one step, in this order, and who holds them."""
        if self._unwrap is not None:
            self._unwrap()
            self._unwrap = None
        if self._rounds >= ROUNDS:
            return []
        if self._before is None:
            return [Unavailable(metric, "the graphs could not be counted") for metric in self.provides]
        self._rounds += 1
        roots = _roots()
        after = len(_reached(root.grad_fn for root in roots))
        found: list[Measurement | Unavailable] = [
            Measurement("graph.nodes", "count", (float(self._before), float(after)))]
        if after <= self._before:
            return [*found, Unavailable("graph.holder", "no graph is held from step to step")]
        self._holder = _holder(roots) or self._holder
        if self._holder is None:
            return [*found, Unavailable("graph.holder", "no variable of the script was found to hold it")]
        fed = next((site for site in self._fed if site), "")
        conditions = {"name": self._holder.name, "site": self._holder.site, "fed": fed}
        return [*found, Measurement("graph.holder", "count", (float(after - self._before),), conditions)]

    def _watch_feeding(self) -> None:
        """Note, for one step, the lines that call the method which fills the holder; it is put back exactly."""
        holder, self._fed = self._holder, []
        if holder is None or holder.owner is None or not holder.function:
            return
        owner, name = holder.owner, holder.function
        original = vars(owner).get(name)
        if not isinstance(original, FunctionType):
            return
        sites = self._fed

        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            given = [*args[1:], *kwargs.values()]
            if any(isinstance(value, torch.Tensor) and value.requires_grad for value in given) or not given:
                sites.append(calling_site())
            return original(*args, **kwargs)

        setattr(owner, name, noted)
        self._unwrap = lambda: setattr(owner, name, original)


def _roots() -> list[Any]:
    """Living tensors that a graph hangs on."""
    everything = gc.get_objects()
    # type(o) and not isinstance: lazy proxies run code when asked for their class.
    kinds = {kind for kind in set(map(type, everything)) if issubclass(kind, torch.Tensor)}
    return [found for found in everything if type(found) in kinds and found.grad_fn is not None]


def _reached(nodes: Iterable[Any]) -> set[Any]:
    """Different autograd nodes that these depend on, themselves included."""
    seen: set[Any] = set()
    stack = list(nodes)
    while stack and len(seen) < LONGEST:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [parent for parent, _ in node.next_functions]
    return seen


def _holder(roots: list[Any]) -> Holder | None:
    """Who holds most of the graph: the name of a tensor that all of it hangs on, or of a container with many tensors."""
    sizes = {id(root): len(_reached([root.grad_fn])) for root in roots[-MOST_ROOTS:]}
    largest = max(sizes.values(), default=0)
    last = [root for root in roots[-MOST_ROOTS:] if sizes[id(root)] >= min(CHAIN * largest, largest - SHORT_CHAIN)]
    found = [holder for _, holder in holders_of(last)]
    # Of `sum` and `avg = sum / count` the one that is made of itself keeps what was before.
    return min(found, key=lambda holder: (not holder.site, holder.how), default=None)
