"""Treatment: copies to the GPU that the host does not wait for."""

from __future__ import annotations

from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment


class NonBlockingCopy(Treatment):
    """``.to(device, non_blocking=True)`` for copies from host to device, from pinned memory.

    A batch that is not pinned is pinned first, which is what ``pin_memory=True`` does in the loader; its cost is included.
    """

    slug = "non_blocking_copy"
    title = "non-blocking copies to the device"
    numerics = False
    phases = ("transfer",)

    def __init__(self) -> None:
        self._before: list[tuple[str, Any]] = []

    def offer(self, loop: Loop) -> Offer:
        """Offered on CUDA."""
        if loop.device != "cuda":
            return Offer("untestable here", reason="copies to a device need one: scan on the machine with the GPU")
        return Offer("offered", (Level("on", "pin_memory=True and .to(device, non_blocking=True)"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Route ``Tensor.to`` and ``Tensor.cuda`` of host tensors through pinned memory."""
        for name in ("to", "cuda"):
            original = getattr(torch.Tensor, name)
            self._before.append((name, original))

            def copied(tensor: Any, *args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
                if tensor.is_cuda or not _to_cuda(_name, args, kwargs):
                    return _original(tensor, *args, **kwargs)
                kwargs["non_blocking"] = True
                # Positional non_blocking would clash: .to(device, dtype, True) is rare, and left as it is.
                if any(isinstance(argument, bool) for argument in args):
                    del kwargs["non_blocking"]
                source = tensor if tensor.is_pinned() else tensor.pin_memory()
                return _original(source, *args, **kwargs)

            setattr(torch.Tensor, name, copied)

    def restore(self, loop: Loop) -> None:
        """Give the methods back, the last one first."""
        while self._before:
            name, original = self._before.pop()
            setattr(torch.Tensor, name, original)


def _to_cuda(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of ``Tensor.to`` or ``.cuda`` goes to a CUDA device."""
    if name == "cuda":
        return True
    target = kwargs.get("device", args[0] if args else None)
    if isinstance(target, torch.Tensor):
        return bool(target.is_cuda)
    if isinstance(target, int) and not isinstance(target, bool):
        return True
    return isinstance(target, str | torch.device) and torch.device(target).type == "cuda"
