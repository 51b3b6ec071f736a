"""The contract of an image decoder that perfdoc can compare and swap in.

Decoders live one a file in the subpackage ``decoders`` of the packages that announce probes (entry point ``perfdoc.probes``);
nothing else lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

JPEG_START = b"\xff\xd8\xff"


class Decoder(ABC):
    """Decodes encoded pictures to arrays of shape (height, width, 3), uint8, RGB, as the file stores them (no EXIF turn)."""

    slug: ClassVar[str]
    """Name in captures."""
    title: ClassVar[str]
    """What a person calls it."""
    package: ClassVar[str]
    """What brings it: ``pip install <package>``."""
    swappable: ClassVar[bool] = False
    """Whether it can stand in for a call in ``__getitem__``: one picture in, one array out."""
    jpeg_only: ClassVar[bool] = False
    """Whether it decodes JPEG alone."""
    note: ClassVar[str] = ""
    """What to know before using it."""
    scaled: ClassVar[bool] = False
    """Whether it is a way to decode to a smaller size; then :meth:`decode_small` is what is compared."""

    @abstractmethod
    def load(self, single_thread: bool) -> None:
        """Import the library. ``single_thread``: with one thread of its own, as in a DataLoader worker.

        Raises ImportError or OSError where something is missing; the message says what.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Any:
        """The picture as an array (height, width, 3), uint8, RGB. Raises what the library raises for broken files."""

    def decode_small(self, data: bytes, side: int) -> Any:
        """The picture at the smallest size that the decoder reaches by itself with both sides at least ``side`` pixels."""
        return self.decode(data)

    def decode_all(self, datas: Sequence[bytes]) -> list[Any]:
        """All of them in order; overridden where a library works on many at a time."""
        return [self.decode(data) for data in datas]
