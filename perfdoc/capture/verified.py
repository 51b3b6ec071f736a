"""What ``perfdoc verify`` measured: one JSON document beside the capture, written by verify and read by the report."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfdoc.core.finding import Effect
from perfdoc.core.typed_json import from_json, to_json

FILE_NAME = "verified.json"
"""What the plan came to. Other changes that are tried get a file each, ``verified-HHMMSS.json``."""


@dataclass(frozen=True)
class Realised:
    """A speed-up of the changed script with its 95% interval, from pairs of processes that ran in turns."""

    speedup: float
    low: float
    high: float
    starts: int
    """Pairs of processes."""
    rounds: int
    """Rounds of blocks of all pairs."""
    known: bool = True
    """Whether the interval is narrow enough to say something."""


@dataclass(frozen=True)
class OriginalStep:
    """Seconds a step of the unchanged script: now, and in the scan that predicted."""

    now: float
    in_scan: float | None


@dataclass(frozen=True)
class Verified:
    """A changed script beside the original, and what the scan had predicted of it."""

    arm: str
    """The changes as one arm: ``autocast=bf16+channels_last=on``."""
    variables: dict[str, str]
    """Environment variables that the changed side had besides."""
    edited: list[str]
    """Changes that are in the patch."""
    left_out: list[str]
    """Slugs of the changes that no edit could make."""
    measured: Effect | None
    """The same changes in the scan."""
    predicted: Effect | None
    """What another run was expected to show; None where these changes were not measured together."""
    realised: Realised
    other_machine: str
    """In what this machine differs from those that the spread between runs is known from; empty where it does not."""
    seconds_a_step: dict[str, list[float]]
    """Of every block, by side."""
    page_faults: dict[str, float]
    """A step, by side."""
    page_fault: float | None
    """Seconds that one costs."""
    original_step: OriginalStep

    @property
    def error(self) -> float | None:
        """Predicted over realised, less one; None where nothing was predicted."""
        return self.predicted.speedup / self.realised.speedup - 1 if self.predicted else None

    @property
    def inside(self) -> bool | None:
        """Whether the realised speed-up lies in the predicted interval; None where nothing was predicted."""
        return self.predicted.low <= self.realised.speedup <= self.predicted.high if self.predicted else None

    def to_json(self) -> dict[str, Any]:
        """The document as it is kept and as ``--json`` prints it."""
        found: dict[str, Any] = to_json(self)
        for name, effect in (("measured", self.measured), ("predicted", self.predicted)):
            found[name] = effect.to_json() if effect else None
        return found | {"error": self.error, "inside": self.inside}


def write(verified: Verified, folder: Path, also: str = "") -> Path:
    """Keep it beside the capture in ``folder``; ``also``: what tells it from the plan's own. The file."""
    file = (folder / FILE_NAME).with_stem(Path(FILE_NAME).stem + also)
    file.write_text(json.dumps(verified.to_json(), indent=1), encoding="utf-8")
    return file


def read(folder: Path) -> Verified | None:
    """What the plan of the run in ``folder`` came to; None where it was not verified or the file cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return from_json(Verified, json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
    return None
