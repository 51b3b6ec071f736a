"""Where the time went by line, as sampled stacks: written in the user's process, kept in the capture. Standard library only.

Durations are in seconds. The time of ordinary steps is divided into stretches, each of some steps in a row: how far the
shares of a line lie apart from stretch to stretch is what the interval of its share comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from perfdoc.capture.records import Seconds
from perfdoc.core.typed_json import About


@dataclass(frozen=True)
class Line:
    """A line of source that was seen on a stack."""

    file: Annotated[str, About("Absolute path.")]
    line: Annotated[int, About(minimum=0)]
    function: Annotated[str, About("Qualified name of the function that it stands in.")]
    package: Annotated[str, About("Library that it belongs to; empty where it is the user's own code.")]
    text: Annotated[str, About("The line as it is written; empty for libraries and where it cannot be read.")]


@dataclass(frozen=True)
class StackPath:
    """A stack that was seen, and for how long."""

    lines: Annotated[list[int], About("Places in `lines`, outermost first. Of a library only the function that was called.")]
    phase: Annotated[str, About("data, forward, backward, optimizer or other.")]
    leaf: Annotated[str, About("What ran there: Python, the callee of a native call, 'waiting for workers', 'idle'.")]
    seconds: Annotated[list[Seconds], About("In each stretch.")]


@dataclass
class Lines:
    """Stacks of the training thread and of the loader's workers, while the loop ran as its author wrote it."""

    period: Annotated[float, About("Seconds between two samples.", above=0)]
    steps: Annotated[int, About("Ordinary steps that were looked at.", minimum=0)]
    stretch_seconds: Annotated[list[Seconds], About("Time of the ordinary steps of each stretch.")]
    other_seconds: Annotated[float, About("Time of the look that was no ordinary step.", minimum=0)]
    turns: Annotated[int, About("Epochs that ended during the look.", minimum=0)]
    lines: list[Line] = field(default_factory=list)
    in_steps: Annotated[list[StackPath], About("Training thread, within ordinary steps.")] = field(default_factory=list)
    between: Annotated[list[StackPath], About(
        "Training thread, in what was no ordinary step; one stretch.")] = field(default_factory=list)
    backward: Annotated[list[StackPath], About(
        "Backward pass of a few steps by the lines that made what it goes through; one stretch. Empty where it was not traced.",
    )] = field(default_factory=list)
    in_workers: Annotated[list[StackPath], About("Main threads of all workers of the step's loaders.")] = field(
        default_factory=list)
    iterators: Annotated[int, About("Iterators of the step's loaders that were made during the look.", minimum=0)] = 0
