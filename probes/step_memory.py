"""Probe: the most memory that a step holds at once, and what it consists of."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop, config_id

KINDS = ("parameters", "gradients", "optimizer", "activations", "other")


class StepMemory(Probe):
    """Bytes of tensors alive at the fullest moment of one ordinary step, under the control and under some treatments.

    Every operator of the watched step is seen (``TorchDispatchMode``) and the storages it makes are counted until they are
    freed. What operators allocate inside (workspaces, packed weights) is not seen: a lower bound. On CUDA the peak is the
    allocator's own figure. Activations are storages made in the forward pass that are alive at the peak.
    """

    slug = "step_memory"
    provides = {"memory.peak": "B", **{f"memory.{kind}": "B" for kind in KINDS}}
    under = ("activation_checkpointing", "inplace_activation", "autocast", "fused_attention", "batch_size",
             "own_autocast", "own_checkpointing")

    def __init__(self) -> None:
        self._tracker: StorageTracker | None = None

    def prepare(self, loop: Loop) -> None:
        """Begin to count at a step's boundary."""
        self._tracker = None
        if not loop.models:
            return
        if loop.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        tracker = StorageTracker(loop)
        tracker.__enter__()
        self._tracker = tracker

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """What was counted since :meth:`prepare`; ``plan`` is the arm that the step ran under."""
        tracker, self._tracker = self._tracker, None
        if tracker is None:
            return [Unavailable(metric, "no module holds the parameters") for metric in self.provides]
        tracker.__exit__(None, None, None)
        parts = tracker.parts(loop)
        peak = sum(parts.values())
        if loop.device == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            parts["other"] += max(0, peak - sum(parts.values()))
        conditions = {"arm": config_id(plan)}
        return [
            Measurement("memory.peak", "B", (float(peak),), conditions),
            *(Measurement(f"memory.{kind}", "B", (float(parts[kind]),), conditions) for kind in KINDS),
        ]


class StorageTracker(TorchDispatchMode):  # type: ignore[misc]
    """Counts the storages that are alive, and remembers which were at the fullest moment."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._device = loop.device
        self._counter = itertools.count()
        self._numbers: dict[int, int] = {}
        self._live: dict[int, int] = {}
        self._forward: set[int] = set()
        self._total = self._peak = self._noted = 0
        self._at_peak: dict[int, int] = {}
        self._gradients: set[int] = set()
        for kind in ("parameters", "gradients", "optimizer"):
            for tensor in _tensors(loop, kind):
                self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count what it made."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self._see(value)
        return result

    def _see(self, tensor: Any) -> None:
        if tensor.device.type != self._device or tensor.layout is not torch.strided:
            return
        try:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
        except (RuntimeError, NotImplementedError):  # tensors without storage of their own
            return
        number = self._numbers.get(key)
        if number is None:
            # Addresses are used again: a storage is known by a number of its own.
            number = self._numbers[key] = next(self._counter)
            weakref.finalize(storage, self._freed, key).atexit = False
            # Inside backward the engine runs nodes: what is made there is no activation.
            if torch._C._current_graph_task_id() == -1 and torch.is_grad_enabled():
                self._forward.add(number)
        self._total += size - self._live.get(number, 0)
        self._live[number] = size
        self._peak = max(self._peak, self._total)
        # Taking note of all that lives costs time: at every new peak that is more than half a percent above the last.
        if self._total > 1.005 * self._noted:
            self._noted, self._at_peak = self._total, dict(self._live)

    def count(self, tensors: Iterable[Any]) -> None:
        """Count tensors that were made before (a batch); they are ``other``."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                self._see(tensor)
                self._forward.discard(self._number(tensor))

    def _number(self, tensor: torch.Tensor) -> int:
        if tensor.layout is not torch.strided:  # sparse gradients have no storage of their own
            return -1
        return self._numbers.get(tensor.untyped_storage()._cdata, -1)

    def note_gradients(self, loop: Loop) -> None:
        """Remember which storages are gradients now, for steps that drop them before they end."""
        self._gradients = {self._number(tensor) for tensor in _tensors(loop, "gradients")}

    def _freed(self, key: int) -> None:
        self._total -= self._live.pop(self._numbers.pop(key, -1), 0)

    def parts(self, loop: Loop) -> dict[str, int]:
        """Bytes at the fullest moment by kind; what rose after the last note (below 0.5%) is ``other``."""
        found = dict.fromkeys(KINDS, 0)
        left = dict(self._at_peak)
        for kind in ("parameters", "gradients", "optimizer"):
            for tensor in _tensors(loop, kind):
                found[kind] += left.pop(self._number(tensor), 0)
        found["gradients"] += sum(left.pop(number, 0) for number in self._gradients)
        for number, size in left.items():
            found["activations" if number in self._forward else "other"] += size
        found["other"] += self._peak - self._noted
        return found


def _tensors(loop: Loop, kind: str) -> Iterator[torch.Tensor]:
    parameters = [p for model in loop.models for p in model.parameters()]
    if kind == "parameters":
        yield from parameters
        yield from (buffer for model in loop.models for buffer in model.buffers())
    elif kind == "gradients":
        yield from (p.grad for p in parameters if p.grad is not None)
    else:
        for optimizer in loop.optimizers:
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, torch.Tensor))
