"""Which forward lines the backward pass spends its time on: seconds of autograd's nodes, by the line that made each.

Every node of the graph has a sequence number, in the order in which nodes are made. While a step is traced, each line of the
user's code that runs notes the number that the next node will have; so a node's line is the last one noted before it. Where
backward begins, a pair of hooks on every node of the graph takes the node's time. For a few steps only, and on the CPU: on a
device a node's time on the host is not its cost.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import torch

from perfdoc.core.user_code import is_users

MOST_NODES = 20_000
"""Maximum number of nodes of a graph that are timed: hooks on more would take longer than the look may."""
UNNUMBERED = 2**63
"""Minimum sequence number of nodes that have none of their own: those that add up a parameter's gradient."""

Chain = tuple[tuple[CodeType, int], ...]
"""The user's functions and lines on a stack, outermost first."""


class BackwardLines:
    """Traces the steps from :meth:`begin` to :meth:`end`. Hears of backward passes as ``LoopState.numbers`` does."""

    def __init__(self) -> None:
        self.seconds: dict[Chain, float] = defaultdict(float)
        """Of all backward passes, by the lines that made what they went through."""
        self._numbers: list[int] = []
        self._chains: list[Chain] = []
        self._users: dict[str, bool] = {}
        self._frames: list[FrameType] = []
        self._on = False
        self._next = torch._C._autograd._get_sequence_nr

    @staticmethod
    def possible() -> bool:
        """Whether lines can be traced: nobody else traces (a debugger, coverage), and no code is compiled: it has no lines."""
        dynamo = sys.modules.get("torch._dynamo.utils")
        compiled = bool(dynamo is not None and getattr(dynamo, "counters", {}).get("frames"))
        return sys.gettrace() is None and not compiled and hasattr(torch._C._autograd, "_get_sequence_nr")

    def begin(self) -> None:
        """Trace from here on. Called on the training thread."""
        self._on = True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if self._is_users(frame.f_code.co_filename) and frame.f_trace is None:
                frame.f_trace = self._line
                self._frames.append(frame)
            frame = frame.f_back
        sys.settrace(self._call)

    def end(self) -> None:
        """Trace no more; nothing of it is left in the interpreter."""
        self._on = False
        if sys.gettrace() == self._call:
            sys.settrace(None)
        for frame in self._frames:
            frame.f_trace = None
        self._frames.clear()

    # -- lines

    def _is_users(self, file: str) -> bool:
        known = self._users.get(file)
        if known is None:
            known = self._users[file] = is_users(file)
        return known

    def _call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        """A function is called: its lines are traced where it is the user's."""
        return self._line if self._on and self._is_users(frame.f_code.co_filename) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "line":
            self._note(frame)
        elif event == "return" and frame.f_back is not None:
            self._note(frame.f_back)  # what follows is made by the rest of the line that called
        return self._line

    def _note(self, frame: FrameType | None) -> None:
        chain = []
        while frame is not None:
            if self._is_users(frame.f_code.co_filename):
                chain.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        if chain:
            self._numbers.append(self._next())
            self._chains.append(tuple(reversed(chain)))

    # -- backward

    def on_backward(self, tensors: Any) -> None:
        """Backward starts from these losses: take the time of every node."""
        roots = [t.grad_fn for t in (tensors if isinstance(tensors, tuple | list) else (tensors,))
                 if isinstance(t, torch.Tensor) and t.grad_fn is not None]
        nodes = self._graph(roots)
        if nodes is None:
            return
        began = 0.0

        def before(*_: Any) -> None:
            nonlocal began
            began = perf_counter()

        for node, chain in nodes:
            def after(*_: Any, chain: Chain = chain) -> None:
                self.seconds[chain] += perf_counter() - began

            node.register_prehook(before)
            node.register_hook(after)

    def on_optimizer(self, optimizer: Any) -> None:
        """Gradients are complete: what lines made in this step is of no more use."""
        self._numbers.clear()
        self._chains.clear()

    def _graph(self, roots: list[Any]) -> list[tuple[Any, Chain]] | None:
        """All nodes with the lines that made them; None where there are too many."""
        found: list[tuple[Any, Chain]] = []
        seen: set[Any] = set()
        waiting: list[tuple[Any, Chain]] = [(root, ()) for root in roots]
        while waiting:
            node, parent = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if len(seen) > MOST_NODES:
                return None
            chain = self._made_by(node._sequence_nr(), parent)
            found.append((node, chain))
            waiting += [(child, chain) for child, _ in node.next_functions if child is not None]
        return found

    def _made_by(self, number: int, parent: Chain) -> Chain:
        if number >= UNNUMBERED:
            return parent
        place = bisect_right(self._numbers, number) - 1
        return self._chains[place] if place >= 0 else ()
