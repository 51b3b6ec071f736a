"""Decoder: simplejpeg, which brings its own libjpeg-turbo."""

from __future__ import annotations

from typing import Any

from perfdoc.core.decoder import Decoder


class SimplejpegDecoder(Decoder):
    """``simplejpeg.decode_jpeg(data)``."""

    slug = "simplejpeg"
    title = "simplejpeg"
    package = "simplejpeg"
    swappable = True
    jpeg_only = True

    def load(self, single_thread: bool) -> None:
        """Import simplejpeg; it decodes with one thread always."""
        import simplejpeg

        self._decode = simplejpeg.decode_jpeg

    def decode(self, data: bytes) -> Any:
        """Decode fully; files cut off raise ValueError."""
        return self._decode(data)

    def decode_small(self, data: bytes, side: int) -> Any:
        """At the smallest of libjpeg's eighths with both sides at least ``side``."""
        return self._decode(data, min_height=side, min_width=side, min_factor=1)
