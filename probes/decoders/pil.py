"""Decoder: Pillow, the one that torchvision's ImageFolder uses."""

from __future__ import annotations

import io
from typing import Any

from perfdoc.core.decoder import Decoder


class PilDecoder(Decoder):
    """``PIL.Image.open(...).convert("RGB")`` as an array."""

    slug = "pil"
    title = "PIL"
    package = "pillow"

    def load(self, single_thread: bool) -> None:
        """Import Pillow and numpy; Pillow decodes with one thread always."""
        import numpy
        from PIL import Image

        self._open, self._array = Image.open, numpy.asarray

    def decode(self, data: bytes) -> Any:
        """Decode fully; files cut off raise OSError."""
        with self._open(io.BytesIO(data)) as image:
            return self._array(image.convert("RGB"))
