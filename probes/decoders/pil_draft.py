"""Decoder: Pillow's draft mode, which scales JPEGs while decoding them."""

from __future__ import annotations

import io
from typing import Any

from perfdoc.core.decoder import Decoder


class PilDraftDecoder(Decoder):
    """``image.draft("RGB", size)``: JPEG at 1/2, 1/4 or 1/8 of its size, by decoding fewer coefficients."""

    slug = "pil_draft"
    title = "PIL draft"
    package = "pillow"
    scaled = True

    def load(self, single_thread: bool) -> None:
        """Import Pillow and numpy."""
        import numpy
        from PIL import Image

        self._open, self._array = Image.open, numpy.asarray

    def decode(self, data: bytes) -> Any:
        """The whole picture: without a size there is nothing to draft."""
        with self._open(io.BytesIO(data)) as image:
            return self._array(image.convert("RGB"))

    def decode_small(self, data: bytes, side: int) -> Any:
        """The smallest of PIL's scales with both sides at least ``side``."""
        with self._open(io.BytesIO(data)) as image:
            width, height = image.size
            share = side / min(width, height)
            if share < 1:
                image.draft("RGB", (round(width * share), round(height * share)))
            return self._array(image.convert("RGB"))
