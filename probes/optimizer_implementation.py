"""Treatment: how the optimizer's update is computed: parameter by parameter, in horizontal batches, or in one kernel."""

from __future__ import annotations

from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices for which torch has fused optimizer kernels (``torch.utils._foreach_utils``)."""


class OptimizerImplementation(Treatment):
    """``foreach=True`` or ``fused=True`` of torch's own optimizers, switched in their parameter groups."""

    slug = "optimizer_implementation"
    title = "optimizer implementation"
    phases = ("optimizer",)

    def __init__(self) -> None:
        self._groups: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._attributes: list[tuple[Any, str, Any]] = []
        self._steps: list[tuple[dict[str, Any], torch.device]] = []

    def offer(self, loop: Loop) -> Offer:
        """Offered where all optimizers are torch's own and have the switches."""
        if not loop.optimizers:
            return Offer("not applicable", reason="no torch optimizer in the loop")
        if any(not type(o).step.__module__.startswith("torch.optim") for o in loop.optimizers):
            return Offer("not applicable", reason="the optimizer's step is not torch's own")
        if getattr(loop, "optimizers_made_anew", 0):
            return Offer("not applicable", reason="the script makes its optimizer anew while it trains")
        groups = [group for optimizer in loop.optimizers for group in optimizer.param_groups]
        parameters = [p for group in groups for p in group["params"]]
        if any(group.get("differentiable") or group.get("capturable") for group in groups):
            return Offer("not applicable", reason="the optimizer is differentiable or capturable")
        if any(group.get("fused") for group in groups):
            return Offer("already on", reason="the optimizer is fused")
        levels = []
        by_default = loop.device == "cuda"  # torch chooses foreach by itself there
        now = all(group.get("foreach") or (group.get("foreach") is None and by_default) for group in groups)
        if all("foreach" in group for group in groups) and not now:
            levels.append(Level("foreach", "foreach=True in the optimizer"))
        plain = all(p.is_floating_point() and p.device.type in FUSED_DEVICES and p.layout is torch.strided for p in parameters)
        if plain and all("fused" in group for group in groups):
            levels.append(Level("fused", "fused=True in the optimizer"))
        if not levels:
            return Offer("not applicable", reason="the optimizer has no foreach or fused implementation")
        return Offer("offered", tuple(levels))

    def apply(self, loop: Loop, level: str) -> None:
        """Set the switches of every parameter group; step counters move to the device where the kernel wants them."""
        for optimizer in loop.optimizers:
            for name in ("_step_supports_amp_scaling", "_need_device_dtype_check_for_fused"):
                self._attributes.append((optimizer, name, optimizer.__dict__.get(name, MISSING)))
            for group in optimizer.param_groups:
                self._groups.append((group, {name: group[name] for name in ("foreach", "fused") if name in group}))
                if "fused" in group:
                    group["fused"] = level == "fused"
                if "foreach" in group:
                    group["foreach"] = level == "foreach"
            if level == "fused":
                self._move_steps(optimizer)

    def _move_steps(self, optimizer: Any) -> None:
        for parameter, state in optimizer.state.items():
            step = state.get("step") if isinstance(state, dict) else None
            if isinstance(step, torch.Tensor) and step.device != parameter.device:
                self._steps.append((state, step.device))
                state["step"] = step.to(parameter.device)

    def restore(self, loop: Loop) -> None:
        """Set the switches found before, and take the step counters back to where they were."""
        for group, before in reversed(self._groups):
            group.update(before)
        for optimizer, name, value in reversed(self._attributes):
            if value is MISSING:
                optimizer.__dict__.pop(name, None)
            else:
                setattr(optimizer, name, value)
        for state, device in reversed(self._steps):
            state["step"] = state["step"].to(device)
        self._groups.clear()
        self._attributes.clear()
        self._steps.clear()


MISSING = object()
