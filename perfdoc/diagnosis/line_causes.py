"""Places of the user's code with what they cost: shares, stacks as rows, causes, and what lies between the steps."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from perfdoc.capture.lines import Line

NEAR = 4
"""Maximum number of lines between hot lines that are named as one range."""


@dataclass(frozen=True)
class Share:
    """A share of the time with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """``88% [85%, 91%]``."""
        return f"{self.value:.0%} [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True)
class Row:
    """A stack of ordinary steps: the user's lines, outermost first."""

    lines: tuple[Line, ...]
    phase: str
    what: str
    """What runs at the innermost line: a library, the callee of a native call, or Python."""
    library: bool
    """Whether that is a library other than torch."""
    seconds: tuple[float, ...]
    """By stretch."""
    in_worker: bool
    made_forward: bool = False
    """Whether it is time of the backward pass, at the line that made what it goes through."""

    @property
    def total(self) -> float:
        """Seconds in all stretches."""
        return math.fsum(self.seconds)


@dataclass(frozen=True)
class Cause:
    """A place of the user's code and what it costs a step."""

    file: str
    lines: tuple[int, ...]
    """Those that have most of the time, in their order."""
    function: str
    """Empty where a line of the loop itself is meant."""
    text: str
    """The hottest line as it is written."""
    what: str
    """What most of its time is spent in."""
    callers: tuple[Line, ...]
    """Lines that lead to it, outermost first."""
    phase: str
    kind: str
    """``code``: the user's own, outside of the model. ``model``: a call of the model, backward, the optimizer. ``loader``:
    torch's loader, without any code of the user's."""
    in_worker: bool
    seconds: float
    """A step."""
    backward: float
    """Share of that which is the backward pass of what the line computes."""
    share: Share
    ceiling: float
    """How many times faster a step could be at most, if it cost nothing."""

    @property
    def span(self) -> str:
        """``40-42``, ``41`` or ``12, 40``."""
        first, last = self.lines[0], self.lines[-1]
        if first == last:
            return str(first)
        return f"{first}-{last}" if last - first <= NEAR + len(self.lines) else ", ".join(map(str, self.lines))

    def where(self, directory: str) -> str:
        """``train.py:40-42``, relative to ``directory`` where it lies in it."""
        return f"{relative(self.file, directory)}:{self.span}"


def relative(file: str, directory: str) -> str:
    """A path as it is shown: relative to ``directory`` where it lies in it."""
    shown = os.path.relpath(file, directory) if directory else file
    return file if shown.startswith("..") else shown


@dataclass(frozen=True)
class Between:
    """Time that is no ordinary step, by the line of the loop that it is spent at."""

    line: Line
    what: str
    """``turn of the epoch``, or what runs there."""
    share: float
    """Of the run's time, ordinary steps and all."""

    @property
    def ceiling(self) -> float:
        """How much faster the run would be, at most, if this took no time; it is never taken to be more than 99% of it."""
        return 1 / max(0.01, 1 - self.share)
