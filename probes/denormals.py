"""Probe: denormal numbers among the optimizer's state and the parameters, and what the update would take without them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

import torch

from perfdoc.core.measurement import How, Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.observe.denormals import countable, share_of, states

SAMPLE = 2**19
"""Entries of all parameters together that are updated for the comparison: some milliseconds an update."""
CHUNK = 4096
"""Entries that stand together in it: a vector instruction is slow as soon as one of its numbers is denormal, and denormals
come by rows."""
PAIRS = 21
"""Number of updates timed on each side."""
LEAST_SHARE = 0.002
"""Minimum share of denormals for their cost to be measured."""
HOW: How = "measured in isolation"


class Denormals(Probe):
    """Counts denormal numbers (in float32 below 1.2e-38) on the CPU, and times the optimizer's update with and without them.

    For the timing, an optimizer of the same class updates a copy of a sample of the parameters, their gradients and its state:
    once with the values as they are, once with the denormals among them set to zero. This needs no flush mode, whose live
    switch (``torch.set_flush_denormal``) acts on the calling thread and on threads that are made later, and on no others.
    """

    slug = "denormals"
    provides = {"denormals.share": "1", "denormals.update": "s"}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """The share by name of the state, and seconds of an update in pairs, where there are enough denormals."""
        if loop.device != "cpu" or not loop.optimizers:
            why = "no optimizer on the CPU, the only device that denormals make slower"
            return [Unavailable(metric, why) for metric in self.provides]
        shares = _shares(loop)
        found: list[Measurement | Unavailable] = [
            Measurement("denormals.share", "1", (share,), {"state": name}, HOW) for name, share in shares.items()
        ] or [Unavailable("denormals.share", "the optimizer keeps no numbers that could be denormal")]
        if max(shares.values(), default=0.0) < LEAST_SHARE:
            return [*found, Unavailable("denormals.update", "there are next to no denormals")]
        sides = {"as they are": _Updates(loop, flushed=False), "flushed": _Updates(loop, flushed=True)}
        if not all(side.optimizers for side in sides.values()):
            return [*found, Unavailable("denormals.update", "no optimizer whose state can be sampled")]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(-1, PAIRS):  # the first one warms up
            for name in list(sides) if turn % 2 else reversed(sides):
                took = sides[name].run()
                if turn >= 0:
                    seconds[name].append(took)
        return [*found, *(Measurement("denormals.update", "s", tuple(taken), {"values": name}, HOW)
                          for name, taken in seconds.items())]


def _shares(loop: Loop) -> dict[str, float]:
    """Share of denormals by name of the state, and of the parameters."""
    entries: dict[str, int] = {}
    denormal: dict[str, float] = {}
    for name, tensor in [*states(loop.optimizers), *(("parameters", p) for p in _parameters(loop) if countable(p))]:
        entries[name] = entries.get(name, 0) + tensor.numel()
        denormal[name] = denormal.get(name, 0.0) + share_of(tensor) * tensor.numel()
    return {name: denormal[name] / count for name, count in entries.items()}


def _parameters(loop: Loop) -> Iterator[Any]:
    for optimizer in loop.optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


class _Updates:
    """Optimizers like the loop's, over a sample of its parameters. ``flushed``: denormals are zero everywhere in it."""

    def __init__(self, loop: Loop, flushed: bool) -> None:
        self.optimizers: list[Any] = []
        self._flushed = flushed
        total = sum(parameter.numel() for parameter in _parameters(loop))
        self._share = min(1.0, SAMPLE / max(1, total))
        for optimizer in loop.optimizers:
            like = self._like(optimizer)
            if like is not None:
                self.optimizers.append(like)

    def run(self) -> float:
        """Seconds of one update of all of them."""
        start = perf_counter()
        for optimizer in self.optimizers:
            step = type(optimizer).step
            # Not through torch's hooks, by which the loop's own steps are counted.
            getattr(step, "__wrapped__", step)(optimizer)
        return perf_counter() - start

    def _like(self, optimizer: Any) -> Any:
        """An optimizer like it over the sample; None where its state does not have the parameters' shapes."""
        groups: list[dict[str, Any]] = []
        states: dict[Any, dict[str, Any]] = {}
        for group in optimizer.param_groups:
            sampled = []
            for parameter in group["params"]:
                state = optimizer.state.get(parameter)
                if not state or not countable(parameter) or (parameter.grad is not None and parameter.grad.is_sparse):
                    continue
                if any(isinstance(v, torch.Tensor) and v.dim() and v.shape != parameter.shape for v in state.values()):
                    return None
                small = torch.nn.Parameter(self._sample(parameter))
                small.grad = torch.zeros_like(small) if parameter.grad is None else self._sample(parameter.grad)
                states[small] = {
                    name: self._sample(v) if isinstance(v, torch.Tensor) and v.dim() else copy.deepcopy(v)
                    for name, v in state.items()
                }
                sampled.append(small)
            if sampled:
                groups.append({**group, "params": sampled})
        if not groups:
            return None
        like = type(optimizer)(groups)
        like.state.update(states)
        return like

    def _sample(self, tensor: Any) -> Any:
        """Stretches from all over a tensor, in proportion to its size, in one row."""
        flat = tensor.detach().reshape(-1)
        count = max(CHUNK, int(self._share * flat.numel()))
        if count >= flat.numel():
            taken = flat.clone()
        else:
            begins = torch.linspace(0, flat.numel() - CHUNK, max(1, count // CHUNK)).long()
            taken = flat[(begins[:, None] + torch.arange(CHUNK)).reshape(-1)]
        if self._flushed and countable(taken):
            taken[taken.abs() < torch.finfo(taken.dtype).tiny] = 0.0
        return taken
