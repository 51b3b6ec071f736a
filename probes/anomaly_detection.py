"""Treatment: autograd's anomaly mode is switched off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.switched_on import users_lines


class AnomalyDetection(Treatment):
    """Without ``torch.autograd.set_detect_anomaly(True)`` or ``detect_anomaly()``, left over from a search for NaNs."""

    slug = "anomaly_detection"
    title = "anomaly detection off"
    phases = ("forward", "loss", "backward")

    def __init__(self) -> None:
        self._before: tuple[bool, bool] | None = None
        self._seen = False

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Does backward run in anomaly mode?"""
        backward = torch.autograd.backward

        @functools.wraps(backward)
        def looked_at(*args: Any, **kwargs: Any) -> None:
            self._seen = self._seen or torch.is_anomaly_enabled()
            backward(*args, **kwargs)

        torch.autograd.backward = looked_at

        def end() -> None:
            torch.autograd.backward = backward

        return end

    def offer(self, loop: Loop) -> Offer:
        """Offered only where backward ran in anomaly mode."""
        if not self._seen:
            return Offer("not applicable", reason="anomaly detection is off")
        lines = users_lines(("set_detect_anomaly", "detect_anomaly"), ())
        site = lines[0] if len(lines) == 1 else ""
        return Offer("offered", (Level("off", "torch.autograd.set_detect_anomaly(False)"),), site=site)

    def apply(self, loop: Loop, level: str) -> None:
        """Off now; and off again at every call, where the script switches it on inside its step."""
        self._before = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
        self._off()

    @staticmethod
    def _off() -> None:
        if torch.is_anomaly_enabled():
            torch.autograd.set_detect_anomaly(False)

    def restore(self, loop: Loop) -> None:
        """As it was between two steps."""
        if self._before is not None:
            torch.autograd.set_detect_anomaly(*self._before)
            self._before = None

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A ``with detect_anomaly()`` around the step has switched it on by now."""
        self._off()
        return args, kwargs

    def on_backward(self, tensors: Any) -> Any:
        """Likewise around backward."""
        self._off()
        return tensors
