"""Treatment: the precision that float32 matrix multiplications are computed in inside (TF32 on CUDA, bf16 on CPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.autocast_use import watch_autocast

AMPERE = (8, 0)
"""First compute capability with TF32 tensor cores (NVIDIA A100 white paper)."""


class MatmulPrecision(Treatment):
    """``torch.set_float32_matmul_precision``: tensors stay float32, the multiplication rounds its inputs.

    ``high`` is TF32 on CUDA (10 bits of mantissa); ``medium`` lets oneDNN on CPUs with bf16 units use them (7 bits).
    """

    slug = "matmul_precision"
    title = "float32 matmul precision"
    phases = ("forward", "backward")

    def __init__(self) -> None:
        self._before: str | None = None
        self._cudnn: bool | None = None
        self._autocast = False

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Does the script enter autocast? Then its matrix multiplications are not in float32."""
        return watch_autocast(self._script_enters)

    def _script_enters(self) -> None:
        self._autocast = True

    def offer(self, loop: Loop) -> Offer:
        """Offered where the device has units for the lower precision and the loop computes in full float32."""
        parameters = [p for model in loop.models for p in model.parameters()]
        if not any(p.dtype is torch.float32 and p.dim() > 1 for p in parameters):
            return Offer("not applicable", reason="no float32 matrices among the parameters")
        try:
            now = torch.get_float32_matmul_precision()
        except RuntimeError:  # set through the newer fp32_precision switches, of which the old one cannot speak
            return Offer("already on", reason="set by the script through torch.backends...fp32_precision")
        if now != "highest":
            return Offer("already on", reason=f"float32 matmul precision is {now!r}")
        if self._autocast:
            return Offer("not applicable", reason="matrix multiplications run under autocast, not in float32")
        if loop.device == "cuda":
            if torch.cuda.get_device_capability() < AMPERE:
                return Offer("untestable here", reason="this GPU has no TF32 units: needs Ampere or later")
            return Offer("offered", (Level("high", 'torch.set_float32_matmul_precision("high")'),))
        if loop.device == "cpu":
            if not _bf16_units():
                return Offer("untestable here", reason="TF32 needs an NVIDIA GPU; this CPU has no bf16 units either")
            return Offer("offered", (Level("medium", 'torch.set_float32_matmul_precision("medium")'),))
        return Offer("untestable here", reason="TF32 needs an NVIDIA GPU")

    def apply(self, loop: Loop, level: str) -> None:
        """Set it for all matrix multiplications; on CUDA for convolutions too."""
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(level)
        if loop.device == "cuda":
            self._cudnn = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = True

    def restore(self, loop: Loop) -> None:
        """Set what was set before."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
        if self._cudnn is not None:
            torch.backends.cudnn.allow_tf32 = self._cudnn
            self._cudnn = None


def _bf16_units() -> bool:
    """Whether the CPU multiplies bf16 natively (AVX512_BF16 or AMX)."""
    cpu: Any = torch.cpu
    return any(
        bool(ask()) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if (ask := getattr(cpu, name, None))
    )
