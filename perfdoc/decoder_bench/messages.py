"""What a process of the decoder comparison is asked, and what it answers: both are one line of JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Asked:
    """What one process has to do."""

    mode: Literal["speed", "quality"]
    module: str
    """Module that defines the decoder."""
    folder: str
    files: list[str]
    """Names of encoded pictures in ``folder``."""
    seconds: float
    """How long to pass over the files again and again."""
    side: int
    """The size used in pixels, for decoders that scale."""
    single_thread: bool
    start: float
    """When all processes of a row begin to time, in seconds since the epoch; 0: at once."""


@dataclass(frozen=True)
class Answer:
    """What came of it. Only ``missing`` or ``failed`` is set where the decoder did not run."""

    missing: str = ""
    """What would bring the decoder, which is not installed."""
    failed: str = ""
    seconds: list[float] = field(default_factory=list)
    """Seconds a file, of every pass over the files."""
    decodes: list[int] = field(default_factory=list)
    """Places of the files that it decodes."""
    largest: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    """Largest and mean difference of a file's pixels to Pillow's, in levels of 255."""
    scaled: bool = False
    """Whether the decoder makes smaller pictures while it decodes."""
    cases: dict[str, str] = field(default_factory=dict)
    """What becomes of each kind of odd file."""
