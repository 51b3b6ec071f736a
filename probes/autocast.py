"""Treatment: mixed precision through ``torch.autocast``, from batch fetch to backward, as a user would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.autocast_use import watch_autocast


class Autocast(Treatment):
    """Autocast to bf16; to fp16 with a GradScaler on CUDA devices older than Ampere.

    Entered when a batch has been fetched or an outermost module is called, left when backward, or the optimizer where
    there is no backward, begins: what is written as ``with torch.autocast(...)`` around forward and loss.
    """

    slug = "autocast"
    title = "mixed precision (autocast)"
    interacts = ("channels_last",)
    phases = ("forward", "loss", "backward")

    def __init__(self) -> None:
        self._device = "cpu"
        self._dtype: torch.dtype | None = None
        self._contexts: list[Any] = []
        self._scaler: Any = None
        self._unscaled: set[int] = set()
        self._entered_by_script = False

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Does the script enter autocast itself?"""
        return watch_autocast(self._script_enters)

    def _script_enters(self) -> None:
        self._entered_by_script = True

    def offer(self, loop: Loop) -> Offer:
        """Offered on CPU and CUDA where the loop computes in float32."""
        if loop.device not in ("cpu", "cuda"):
            return Offer("untestable here", reason=f"autocast on {loop.device} devices is not covered yet")
        parameters = [p for model in loop.models for p in model.parameters()]
        if parameters and not any(p.dtype is torch.float32 for p in parameters):
            return Offer("already on", reason=f"the parameters are {parameters[0].dtype}, not float32")
        if self._entered_by_script:
            return Offer("already on", reason="the loop runs its forward pass under torch.autocast")
        if loop.device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return Offer(
                "offered", (Level("fp16", "autocast fp16 with GradScaler"),)
            )
        return Offer("offered", (Level("bf16", "autocast bf16"),))

    def apply(self, loop: Loop, level: str) -> None:
        """Autocast from the next batch on."""
        self._device = loop.device
        self._dtype = torch.bfloat16 if level == "bf16" else torch.float16
        if level == "fp16":
            self._scaler = torch.amp.GradScaler(loop.device)

    def restore(self, loop: Loop) -> None:
        """Leave autocast; nothing else was changed."""
        self._leave()
        self._dtype = None
        self._scaler = None
        self._unscaled.clear()

    def _enter(self) -> None:
        if not self._contexts:
            self._enter_another()

    def _enter_another(self) -> None:
        if self._dtype is not None:
            context = torch.autocast(self._device, dtype=self._dtype)
            context.__enter__()
            self._contexts.append(context)

    def _leave(self) -> None:
        while self._contexts:
            self._contexts.pop().__exit__(None, None, None)

    def on_fetch(self) -> None:
        """The user's block would begin here."""
        self._enter()

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Loops without a loader, and later forward passes of the same step, begin here.

        Many scripts have the block already and switch it off by an option (``autocast(enabled=args.amp)``): the model is
        called inside such a block, so it is on again from here. A block around the loss alone is left as it is.
        """
        self._enter()
        if not torch.is_autocast_enabled(self._device) and next(module.parameters(), None) is not None:
            self._enter_another()
        return args, kwargs

    def on_backward(self, tensors: Any) -> Any:
        """The user's block would end here; with a scaler, backward starts from the scaled loss."""
        self._leave()
        if self._scaler is None:
            return tensors
        if isinstance(tensors, torch.Tensor):
            return self._scaler.scale(tensors)
        return [self._scaler.scale(t) for t in tensors]

    def on_optimizer(self, optimizer: Any) -> None:
        """With a scaler, gradients are unscaled and checked before the step, and the scale is updated."""
        self._leave()
        if self._scaler is not None and any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
            self._scaler.unscale_(optimizer)
            # The user's code steps even where a scaler would skip; only the time counts here.
            self._scaler.update()
