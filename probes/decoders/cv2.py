"""Decoder: OpenCV."""

from __future__ import annotations

from typing import Any

from perfdoc.core.decoder import Decoder


class Cv2Decoder(Decoder):
    """``cv2.imdecode`` and BGR to RGB; told not to turn by EXIF, which ``cv2.imread`` does by itself."""

    slug = "cv2"
    title = "cv2"
    package = "opencv-python-headless"
    swappable = True
    note = "cv2.imread and imdecode turn pictures by EXIF unless cv2.IMREAD_IGNORE_ORIENTATION is given, and deliver BGR"

    def load(self, single_thread: bool) -> None:
        """Import OpenCV; with one thread in a worker, as OpenCV itself would start one for every core."""
        import cv2
        import numpy

        self._cv2, self._numpy = cv2, numpy
        self._flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        if single_thread:
            cv2.setNumThreads(0)

    def decode(self, data: bytes) -> Any:
        """Decode fully; what OpenCV cannot decode raises ValueError (it returns None itself)."""
        cv2 = self._cv2
        image = cv2.imdecode(self._numpy.frombuffer(data, self._numpy.uint8), self._flags)
        if image is None:
            raise ValueError("cv2.imdecode returned None")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
