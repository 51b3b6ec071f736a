"""Treatment: cuDNN chooses convolution algorithms by timing them."""

from __future__ import annotations

import torch
from torch import nn

from perfdoc.core.treatment import Level, Loop, Offer, Treatment

FEW_SHAPES = 4
"""More input shapes than this in the observed steps, and every one of them is tuned anew: said with the offer."""


class CudnnBenchmark(Treatment):
    """``torch.backends.cudnn.benchmark = True``. The trials of the first steps are warm-up, recorded as one-time cost."""

    slug = "cudnn_benchmark"
    title = "cuDNN autotuning"
    interacts = ("channels_last",)
    phases = ("forward", "backward")

    def __init__(self) -> None:
        self._before: bool | None = None

    def offer(self, loop: Loop) -> Offer:
        """Offered on CUDA for models with convolutions; with many input shapes it is offered with a warning."""
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if not any(isinstance(m, kinds) for model in loop.models for m in model.modules()):
            return Offer("not applicable", reason="no convolutions in the model")
        if loop.device != "cuda":
            return Offer("untestable here", reason="cuDNN needs an NVIDIA GPU: scan there")
        if torch.backends.cudnn.benchmark:
            return Offer("already on", reason="torch.backends.cudnn.benchmark is True")
        if torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic:
            return Offer("not applicable", reason="the script asks for deterministic algorithms, which tuning would not keep")
        shapes = len(loop.input_shapes)
        reason = f"{shapes} input shapes seen: each is tuned anew" if shapes > FEW_SHAPES else ""
        return Offer("offered", (Level("on", "torch.backends.cudnn.benchmark = True"),), reason)

    def apply(self, loop: Loop, level: str) -> None:
        """Switch the autotuner on."""
        self._before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True

    def restore(self, loop: Loop) -> None:
        """Set the flag found before."""
        if self._before is not None:
            torch.backends.cudnn.benchmark = self._before
            self._before = None
