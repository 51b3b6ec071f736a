"""Decoder: libjpeg-turbo through PyTurboJPEG."""

from __future__ import annotations

import warnings
from typing import Any

from perfdoc.core.decoder import Decoder


class TurbojpegDecoder(Decoder):
    """``TurboJPEG().decode(data, TJPF_RGB)``; PyTurboJPEG 1.x with the system's libjpeg-turbo 2, 2.x with 3."""

    slug = "turbojpeg"
    title = "TurboJPEG"
    package = "'PyTurboJPEG<2' and the system's libturbojpeg (apt install libturbojpeg0)"
    swappable = True
    jpeg_only = True
    note = "files that were cut off come out grey at the bottom, with a warning only"

    def load(self, single_thread: bool) -> None:
        """Import PyTurboJPEG and find the system's library; ImportError where either is missing or they do not fit."""
        import turbojpeg

        try:
            self._decoder = turbojpeg.TurboJPEG()
        except (RuntimeError, OSError, AttributeError) as error:
            raise ImportError(f"PyTurboJPEG finds no libturbojpeg that fits it: {str(error).splitlines()[0]}") from None
        self._rgb = turbojpeg.TJPF_RGB

    def decode(self, data: bytes) -> Any:
        """Decode fully. Files cut off are decoded as far as they go, with a warning."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._decoder.decode(data, self._rgb)

    def decode_small(self, data: bytes, side: int) -> Any:
        """At the smallest of libjpeg's eighths with both sides at least ``side``."""
        width, height, *_ = self._decoder.decode_header(data)
        able = [(n, d) for n, d in self._decoder.scaling_factors if n <= d and min(width, height) * n / d >= side]
        return self._decoder.decode(data, self._rgb, scaling_factor=min(able, key=lambda f: f[0] / f[1], default=(1, 1)))
