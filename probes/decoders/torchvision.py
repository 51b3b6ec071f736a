"""Decoder: torchvision.io."""

from __future__ import annotations

from typing import Any

from perfdoc.core.decoder import Decoder


class TorchvisionDecoder(Decoder):
    """``torchvision.io.decode_image(bytes, mode=RGB)``: a tensor, channels first, without a copy through PIL."""

    slug = "torchvision"
    title = "torchvision.io"
    package = "torchvision"
    swappable = True
    note = "deprecated since torchvision 0.29 in favour of TorchCodec"

    def load(self, single_thread: bool) -> None:
        """Import torchvision; ImportError where it was built without image codecs."""
        import torch
        import torchvision

        if single_thread:
            torch.set_num_threads(1)
        if not hasattr(torchvision.io, "decode_image"):
            raise ImportError("this torchvision has no torchvision.io.decode_image")
        self._torch, self._io = torch, torchvision.io

    def decode(self, data: bytes) -> Any:
        """Decode fully; files cut off raise RuntimeError. The array is a view of the tensor (height, width, channel)."""
        encoded = self._torch.frombuffer(bytearray(data), dtype=self._torch.uint8)
        return self._io.decode_image(encoded, mode=self._io.ImageReadMode.RGB).permute(1, 2, 0).numpy()
