"""Probe: autograd graphs that outlive their step, who holds them, and where that is fed."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.user_code import calling_site
from perfdoc.inject.observe.holders import ADDED, DEEPEST, ITSELF, Holder, holders_of

LONGEST = 200_000
"""Nodes after which counting a graph stops."""
MARK = "perfdoc"
MOST_ROOTS = 64
"""Maximum number of tensors whose holders are looked for."""


class RetainedGraph(Probe):
    """Counts, at a step's end, the autograd nodes that tensors of the script still hold, and how much they grew in a step.

    ``total_loss += loss`` keeps the graph of every step alive: the count grows by a whole step's nodes with every step. A
    loss variable that is overwritten holds one step's graph, which in some loops is larger than the last one's (adaptive
    solvers, sequences of other lengths): it counts as growth only where nodes of the step before are held still. Where it
    grows, the variable or the attribute that holds it is named, and where that is filled in a method, the line that calls it.
    """

    slug = "retained_graph"
    provides = {"graph.nodes": "count", "graph.holder": "count"}

    def __init__(self) -> None:
        self._mark = object()
        """Of nodes that were there at the beginning of the step; each step has its own."""
        self._before: int | None = None
        """Nodes at the beginning of the step."""
        self._made = 0
        """Number of nodes that this thread had made by then: the sequence number of the next one."""
        self._living: list[weakref.ref[Any]] = []
        """Tensors that hung on them then."""
        self._feeding: _Feeding | None = None

    def prepare(self, loop: Loop) -> None:
        """Count at the beginning of a step; see where what may hold graphs from step to step is fed."""
        self._before = None
        self._mark = object()
        roots = _roots()
        for root in roots:
            # A mark, for to keep the nodes would be to keep the graphs.
            root.grad_fn.metadata[MARK] = self._mark
        self._living = [weakref.ref(root) for root in roots]
        self._feeding = _Feeding(_holder(_largest(roots)))
        self._before = len(_reached(root.grad_fn for root in roots))
        self._made = _sequence_number()

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Nodes held before and after one step, in this order, and who holds them."""
        feeding, self._feeding = self._feeding, None
        if feeding is not None:
            feeding.end()
        before, self._before = self._before, None
        if before is None or feeding is None:
            return [Unavailable(metric, "the graphs could not be counted") for metric in self.provides]
        made = _sequence_number() - self._made
        roots = _roots()
        nodes = _reached(root.grad_fn for root in roots)
        after = len(nodes)
        if not any(self._made - made <= node._sequence_nr() < self._made for node in nodes):
            same = Measurement("graph.nodes", "count", (float(before), float(before)))
            return [same, Unavailable("graph.holder", "nothing of the step before is held")]
        if before >= LONGEST:  # more than are counted: what is new comes on top
            after = before + len(_reached((root.grad_fn for root in roots), self._mark))
        found: list[Measurement | Unavailable] = [Measurement("graph.nodes", "count", (float(before), float(after)))]
        living = {id(tensor) for reference in self._living if (tensor := reference()) is not None}
        self._living = []
        if after <= before:
            return [*found, Unavailable("graph.holder", "no graph is held from step to step")]
        # A sum of all steps is a new tensor whose graph has nodes of earlier steps; a list keeps the tensors themselves.
        chained = [root for root in _some(roots) if _reaches(root.grad_fn, self._mark)]
        holder = _holder(chained or _some([root for root in roots if id(root) in living]))
        if holder is None:
            return [*found, Unavailable("graph.holder", "no variable of the script was found to hold it")]
        conditions = {"name": holder.name, "site": holder.site, "fed": feeding.site_of(holder)}
        return [*found, Measurement("graph.holder", "count", (float(after - before),), conditions)]


class _Feeding:
    """For one step: the lines that call the method which fills a holder. The method is put back exactly by :meth:`end`."""

    def __init__(self, holder: Holder | None) -> None:
        self._holder = holder
        self._sites: list[str] = []
        self._undo: Callable[[], None] | None = None
        if holder is None or holder.owner is None or holder.how not in (ITSELF, ADDED):
            return
        owner, name = holder.owner, holder.function
        original = vars(owner).get(name)
        if not isinstance(original, FunctionType):
            return

        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            given = [*args[1:], *kwargs.values()]
            if not given or any(isinstance(value, torch.Tensor) and value.requires_grad for value in given):
                self._sites.append(calling_site())
            return original(*args, **kwargs)

        setattr(owner, name, noted)
        self._undo = lambda: setattr(owner, name, original)

    def end(self) -> None:
        """Put the method back."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def site_of(self, holder: Holder) -> str:
        """Where ``holder`` was fed with a graph; empty where it was another one that was looked at, or none."""
        same = self._holder is not None and (self._holder.owner, self._holder.function) == (holder.owner, holder.function)
        return next(filter(None, self._sites), "") if same else ""


def _sequence_number() -> int:
    """The number that the next autograd node of this thread will have."""
    return int(torch._C._autograd._get_sequence_nr())


def _roots() -> list[Any]:
    """Living tensors that a graph hangs on."""
    everything = gc.get_objects()
    # type(o) and not isinstance: lazy proxies run code when asked for their class.
    kinds = {kind for kind in set(map(type, everything)) if issubclass(kind, torch.Tensor)}
    return [found for found in everything if type(found) in kinds and found.grad_fn is not None]


def _some(roots: Sequence[Any]) -> Sequence[Any]:
    """The youngest and the oldest: the garbage collector tells them in that order."""
    return roots if len(roots) <= MOST_ROOTS else [*roots[:MOST_ROOTS // 2], *roots[-MOST_ROOTS // 2:]]


def _reached(nodes: Iterable[Any], unmarked: object = None) -> set[Any]:
    """Different autograd nodes that these depend on, themselves included. Nodes with the mark ``unmarked`` end it."""
    seen: set[Any] = set()
    stack = list(nodes)
    while stack and len(seen) < LONGEST:
        node = stack.pop()
        if node is None or node in seen or (unmarked is not None and node.metadata.get(MARK) is unmarked):
            continue
        seen.add(node)
        stack += [parent for parent, _ in node.next_functions]
    return seen


def _reaches(start: Any, mark: object) -> bool:
    """Whether a node that was not there when nodes were marked depends on one that was."""
    seen: set[Any] = set()
    stack = [start]
    while stack and len(seen) < LONGEST:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node.metadata.get(MARK) is mark:
            return node is not start
        seen.add(node)
        stack += [parent for parent, _ in node.next_functions]
    return False


def _largest(roots: Sequence[Any]) -> list[Any]:
    """Tensors with the largest graphs, and a few nodes more or less: of a sum and a mean that is made of it."""
    sizes: list[int] = []
    for root in _some(roots):
        sizes.append(len(_reached([root.grad_fn])))
        if sum(sizes) > LONGEST:
            break
    return [root for root, size in zip(_some(roots), sizes, strict=False) if size >= 0.9 * max(sizes)]


def _holder(roots: Sequence[Any], deepest: int = DEEPEST) -> Holder | None:
    """Who holds these tensors; of ``sum`` and ``avg = sum / count`` the one made of itself, which keeps what was before."""
    found = [holder for _, holder in holders_of(roots, deepest)] if roots else []
    return min(found, key=lambda holder: (not holder.site, holder.how), default=None)
