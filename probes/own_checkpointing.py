"""Treatment: the script's own activation checkpointing is switched off."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.utils.checkpoint
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.switched_on import users_lines
from perfdoc.inject.observe.users_calls import users_line
from perfdoc.inject.system.process_use import free_memory

CHECKPOINTING: Any = torch.utils.checkpoint
GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")
"""What ``checkpoint`` calls around the function where it is not reentrant, by versions of torch."""
REENTRANT = "CheckpointFunction"
ENABLING = ("gradient_checkpointing_enable", "enable_gradient_checkpointing", "set_grad_checkpointing",
            "apply_activation_checkpointing")
"""Methods by which people ask transformers, diffusers, timm and torch for it."""
OPTIONS = ("gradient_checkpointing", "use_gradient_checkpointing", "activation_checkpointing")
MOST_OF_FREE = 0.5
"""Maximum share of the free memory that kept activations may take: batches differ, and other things grow."""
UNKNOWN_FREE = 2**30
"""Maximum size of kept activations in bytes, where it is not known how much memory is free."""
LARGER = 1.2
"""Maximum size of a call's inputs, relative to the largest that was gauged, for the call not to be checkpointed."""


class OwnCheckpointing(Treatment):
    """``torch.utils.checkpoint`` calls its function as it is: activations are kept and not computed again in backward.

    Scripts and libraries hold references to the function, so what it calls inside is changed. The first step is gauged: after
    every call what it keeps is counted, and the change is given up before the sum reaches half of the free memory.
    """

    slug = "own_checkpointing"
    title = "the script's own checkpointing off"
    phases = ("backward", "forward")
    provides = {"checkpointing.kept": "B", "checkpointing.free": "B"}

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, bool]] = Counter()
        """The user's line, and whether it calls the function itself, with the number of calls."""
        self._changed = ExitStack()
        self._device = "cpu"
        self._free: int | None = None
        self._most = 0
        self._gauged = False
        self._gauge: _Gauge | None = None
        self._kept = self._peak = 0
        """Bytes kept since the last backward, and the most of them."""
        self._largest = self._inside = 0

    # -- what the script does

    def sense(self, loop: Loop) -> Callable[[], None] | None:
        """Which lines of the script checkpoint activations?"""
        # Both kinds of checkpointing ask for the autocast settings; scripts hold references to the public function.
        ask = getattr(CHECKPOINTING, "_get_autocast_kwargs", None)
        if ask is None:
            return None

        def asked(*args: Any, **kwargs: Any) -> Any:
            if torch._C._current_graph_task_id() == -1:  # in backward it is computed again
                self._seen[users_line(sys._getframe(1))] += 1
            return ask(*args, **kwargs)

        CHECKPOINTING._get_autocast_kwargs = asked
        return lambda: setattr(CHECKPOINTING, "_get_autocast_kwargs", ask)

    def offer(self, loop: Loop) -> Offer:
        """Offered where the loop checkpoints, in one process."""
        if not self._seen:
            return Offer("not applicable", reason="the loop does not use torch.utils.checkpoint")
        if loop.ranks > 1:
            return Offer("not applicable", reason="several ranks: one that runs out of memory would stop the others")
        if not any(hasattr(CHECKPOINTING, name) for name in GENERATORS) or not hasattr(CHECKPOINTING, REENTRANT):
            return Offer("untestable here", reason="this version of torch checkpoints in another way than is known")
        (site, direct), _ = self._seen.most_common(1)[0]
        said = f"activations are checkpointed by the call at {site}" if site else "activations are checkpointed"
        if not direct:
            enabling = users_lines(ENABLING, OPTIONS)
            if len(enabling) == 1:
                said += f"; switched on at {enabling[0]}"
                site = enabling[0]
        where = f" of {site}" if site else ""
        return Offer("offered", (Level("off", f"leaving out the activation checkpointing{where}"),), said, site)

    # -- without it

    def apply(self, loop: Loop, level: str) -> None:
        """From the next call on the function is called as it is, as far as memory allows."""
        self._device, self._kept = loop.device, 0
        self._free = _free(loop.device)
        self._most = UNKNOWN_FREE if self._free is None else int(MOST_OF_FREE * self._free)
        for name in GENERATORS:
            if hasattr(CHECKPOINTING, name):
                self._replace(name, self._passing(getattr(CHECKPOINTING, name)))
        self._replace(REENTRANT, _Passing(self, getattr(CHECKPOINTING, REENTRANT)))

    def _replace(self, name: str, new: Any) -> None:
        self._changed.callback(setattr, CHECKPOINTING, name, getattr(CHECKPOINTING, name))
        setattr(CHECKPOINTING, name, new)

    def _passing(self, original: Callable[..., Any]) -> Callable[..., Iterator[None]]:
        def around(*args: Any, **kwargs: Any) -> Iterator[None]:
            if not self.begin((args, kwargs)):
                yield from original(*args, **kwargs)
                return
            try:
                yield
            except BaseException:  # the function's own, or the generator is thrown away: nothing may stay behind
                self.abandon()
                raise
            self.end()

        return around

    def begin(self, inputs: Any) -> bool:
        """A function is about to be called; whether it may keep its activations."""
        size: int = sum(t.numel() for t in _tensors(inputs))
        if self._gauged:
            return size <= LARGER * self._largest
        self._largest = max(self._largest, size)
        self._inside += 1
        if self._inside == 1:  # what is checkpointed within is part of the whole
            self._gauge = _Gauge(self._device)
        return True

    def end(self) -> None:
        """The function has been called. Raises MemoryError where so many activations would take too much memory."""
        self._inside = max(0, self._inside - 1)
        if self._gauge is None or self._inside:
            return
        gauge, self._gauge = self._gauge, None
        self._kept += gauge.stop()
        self._peak = max(self._peak, self._kept)
        if self._kept > self._most:
            free = "an unknown number of" if self._free is None else f"{self._free / 2**20:.4g}"
            raise MemoryError(f"without checkpointing the activations of a part of the model alone take "
                              f"{self._kept / 2**20:.4g} MiB, and {free} MiB are free")

    def abandon(self) -> None:
        """The function did not come to its end."""
        gauge, self._gauge, self._inside = self._gauge, None, 0
        if gauge is not None:
            gauge.stop()

    def on_backward(self, tensors: Any) -> Any:
        """Backward frees what was kept: the next micro-batch begins from nothing."""
        self._kept = 0
        return tensors

    def on_optimizer(self, optimizer: Any) -> None:
        """A whole step was gauged."""
        self._gauged = self._gauged or self._peak > 0

    def restore(self, loop: Loop) -> None:
        """Checkpointing as it was."""
        self._changed.close()
        self.abandon()

    def measurements(self, loop: Loop) -> list[Measurement | Unavailable]:
        """Bytes of activations that a step keeps without checkpointing, and bytes that were free."""
        if not self._gauged:
            return []
        found: list[Measurement | Unavailable] = [Measurement("checkpointing.kept", "B", (float(self._peak),))]
        if self._free is not None:
            found.append(Measurement("checkpointing.free", "B", (float(self._free),)))
        return found


class _Passing:
    """In the place of torch's autograd function for reentrant checkpointing."""

    def __init__(self, treatment: OwnCheckpointing, original: Any) -> None:
        self._treatment = treatment
        self._original = original

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        if not self._treatment.begin(args):
            return self._original.apply(function, preserve, *args)
        try:
            result = function(*args)
        except BaseException:  # the function's own, raised again: what was begun for it must not stay behind
            self._treatment.abandon()
            raise
        self._treatment.end()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _Gauge:
    """Bytes that are still alive at the end of what was made since the beginning."""

    def __init__(self, device: str) -> None:
        self._mode: _Made | None = None
        self._before = 0
        if device == "cuda":
            self._before = torch.cuda.memory_allocated()
        else:
            self._mode = _Made()
            self._mode.__enter__()

    def stop(self) -> int:
        """The bytes; the gauge is done with."""
        mode, self._mode = self._mode, None
        if mode is None:
            return max(0, int(torch.cuda.memory_allocated()) - self._before) if self._before else 0
        mode.__exit__(None, None, None)
        return sum(size for storage, size in mode.made.values() if not storage.expired())


class _Made(TorchDispatchMode):  # type: ignore[misc]
    """Keeps weak references to the storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator; a view of what it was given (a parameter, an input) is nothing new."""
        kwargs = kwargs or {}
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        for tensor in _tensors((result,)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result


def _tensors(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Strided tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided:
            yield value
    elif depth < 4 and isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part, depth + 1)
    elif depth < 4 and isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part, depth + 1)


def _free(device: str) -> int | None:
    if device == "cuda":
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + unused)
    return free_memory()
