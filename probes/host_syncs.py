"""Probe: the places in the user's code where the host waits for the device, or would on a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.core.user_code import is_users, site_of

VALUES = {
    "item": ".item()", "__float__": "float(tensor)", "__int__": "int(tensor)", "__bool__": "bool(tensor)",
    "__index__": "tensor as an index", "__complex__": "complex(tensor)", "tolist": ".tolist()", "cpu": ".cpu()",
    "numpy": ".numpy()", "__array__": "numpy conversion", "__repr__": "printing a tensor", "__format__": "formatting a tensor",
    "__contains__": "in tensor", "equal": "torch.equal", "allclose": "torch.allclose", "is_nonzero": "is_nonzero",
}
"""Calls that bring a value, or all values, of a tensor to the host."""
SHAPES = {
    "nonzero": "nonzero", "argwhere": "argwhere", "masked_select": "masked_select", "unique": "unique",
    "unique_consecutive": "unique_consecutive", "bincount": "bincount", "repeat_interleave": "repeat_interleave",
    "combinations": "combinations",
}
"""Calls whose result's size depends on values: the host must know them before it goes on."""
TORCHS_OWN = ("torch.optim", "torch.utils.data", "torch.autograd")
"""Modules whose calls are none of the user's, whoever called them."""


class HostSyncs(Probe):
    """Watches one ordinary step for calls that need a tensor's values on the host.

    Only tensors count that are on the device, or that would be there on a GPU: parameters, what was moved by ``.to(device)``
    or given to a module, and all that is computed from those. Meters, data sets and optimizers that work on tensors of their
    own on the CPU are none. How long the host waits says little: what a wait costs is for a GPU to tell.
    """

    slug = "host_syncs"
    provides = {"sync.places": "count"}

    def __init__(self) -> None:
        self._mode: _Watcher | None = None
        self._wrapped: list[tuple[Any, str, Any]] = []

    def prepare(self, loop: Loop) -> None:
        """Look from here on."""
        mode = _Watcher(loop)
        mode.__enter__()
        self._mode = mode
        for place, name, said in _waits():
            original = getattr(place, name)
            self._wrapped.append((place, name, original))

            def waits(*args: Any, _original: Any = original, _said: str = said, **kwargs: Any) -> Any:
                site = _users_line()
                if site:
                    mode.found[(site, _said)] += 1
                return _original(*args, **kwargs)

            setattr(place, name, waits)

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """One measurement a place, its samples the number of times in the step; a zero where nothing was seen."""
        mode, self._mode = self._mode, None
        while self._wrapped:
            place, name, original = self._wrapped.pop()
            setattr(place, name, original)
        if mode is None:
            return [Unavailable("sync.places", "no step could be watched")]
        mode.__exit__(None, None, None)
        if not mode.found:
            return [Measurement("sync.places", "count", (0.0,))]
        return [
            Measurement("sync.places", "count", (float(times),), {"site": site, "call": call, "device": loop.device})
            for (site, call), times in sorted(mode.found.items())
        ]


class _Watcher(TorchFunctionMode):  # type: ignore[misc]
    """Follows tensors that belong to the device through the calls of one step."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._device = loop.device
        self._on_device = WeakIdKeyDictionary()
        self._on_host = WeakIdKeyDictionary()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call; note it where it needs values of a device tensor."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        device = any(self._belongs(tensor) for tensor in _tensors((args, kwargs)))
        said = (self._needs_values(name, args) if device else "") or self._copies(name, args, kwargs)
        if said:
            site = _users_line()
            if site:
                self.found[(site, said)] += 1
        result = func(*args, **kwargs)
        if name in VALUES:  # on the host from here on
            if device and result is args[0]:  # a copy on a GPU, the tensor itself here: another name for it will do
                result = result.view_as(result)
            if isinstance(result, torch.Tensor):
                self._on_host[result] = True
            return result
        if device or (name in ("to", "cuda") and _to_device(name, args, kwargs)):
            for tensor in _tensors((result,)):
                self._on_device[tensor] = True
        return result

    def _belongs(self, tensor: Any) -> bool:
        if self._device != "cpu":
            return bool(tensor.device.type == self._device)
        # A leaf that requires gradients is a parameter; what has a grad_fn was computed from one.
        return tensor not in self._on_host and (tensor.requires_grad or tensor in self._on_device)

    def _copies(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> str:
        """A copy to the device that the host has to wait for: from pageable memory, or without ``non_blocking``."""
        if self._device == "cpu":
            return ""
        target = kwargs.get("device")
        if name == "tensor" and target is not None and torch.device(target).type == self._device:
            return "a tensor made from Python values"
        if name not in ("to", "cuda", "copy_") or not args or not isinstance(args[0], torch.Tensor):
            return ""
        if name != "copy_" and not (_to_device(name, args, kwargs) and self._is_device(name, args, kwargs)):
            return ""
        source = args[1] if name == "copy_" else args[0]
        if not isinstance(source, torch.Tensor) or source.device.type != "cpu":
            return ""
        if name == "copy_" and args[0].device.type != self._device:
            return ""
        pinned = source.is_pinned()
        if pinned and (kwargs.get("non_blocking") or True in [a for a in args if isinstance(a, bool)]):
            return ""
        return "a copy that blocks" if pinned else "a copy from pageable memory"

    def _is_device(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
        if name == "cuda":
            return self._device == "cuda"
        target = kwargs.get("device", args[1] if len(args) > 1 else None)
        return bool(torch.device(target).type == self._device)

    def _needs_values(self, name: str, args: Any) -> str:
        if name in VALUES:
            return VALUES[name]
        if name in SHAPES:
            return SHAPES[name]
        if name == "__getitem__" and any(_is_mask(part) for part in _parts(args[1] if len(args) > 1 else None)):
            return "indexing with a mask"
        if name == "__setitem__" and any(_is_mask(part) for part in _parts(args[1] if len(args) > 1 else None)):
            # Writing one value under a mask stays on the device; writing a tensor has to count the places.
            return "writing under a mask" if len(args) > 2 and isinstance(args[2], torch.Tensor) and args[2].dim() else ""
        if name == "where" and len(args) == 1:
            return "torch.where(condition)"
        return ""


def _waits() -> list[tuple[Any, str, str]]:
    """Functions that wait for the device and are given no tensor: place, name, and what to say."""
    found: list[tuple[Any, str, str]] = [(torch.cuda, "synchronize", "torch.cuda.synchronize()")]
    if torch.cuda.is_available():
        found += [(torch.cuda.Event, "synchronize", "Event.synchronize()"),
                  (torch.cuda.Stream, "synchronize", "Stream.synchronize()")]
    return found


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_mask(part: Any) -> bool:
    return isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)


def _to_device(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the user moves a tensor to the device of the training (``.to(device)``, ``.cuda()``)."""
    if name == "cuda":
        return True
    target = kwargs.get("device", args[1] if len(args) > 1 else None)
    return isinstance(target, str | torch.device)


def _tensors(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < 3 and isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part, depth + 1)
    elif depth < 3 and isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part, depth + 1)


def _users_line() -> str:
    """``file:line`` in the user's code; empty where the call is torch's own business (an optimizer's step counter)."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return site_of(frame)
        if str(frame.f_globals.get("__name__", "")).startswith(TORCHS_OWN):
            return ""
        frame = frame.f_back
    return ""
