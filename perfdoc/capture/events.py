"""Every event that a process of a run may write, one class a kind. Standard library only.

A line of an event file is a JSON object: ``e`` the kind, ``t``, ``lap``, and the fields of the class. Keys and kinds on disk
are permanent: a field is added with a default, and never renamed. What went wrong on the way has classes of its own
(:mod:`perfdoc.capture.incidents`); :mod:`perfdoc.capture.event_lines` reads and writes the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perfdoc.capture.event import Event
from perfdoc.capture.lines import Lines
from perfdoc.capture.records import BenchedLoader, Counts, Estimate, Failure, Judged, Loop, Moment, Offer, Parity, Process
from perfdoc.core import measurement
from perfdoc.core.blocks import Block
from perfdoc.core.measurement import How, Measurement, Unavailable, Unit

# -- how far a process came


@dataclass(kw_only=True)
class Entered(Event):
    """Perfdoc is in a Python process, whether it will train or not."""

    kind = "entered"
    pid: int
    ppid: int
    argv: list[str]
    python: str


@dataclass(kw_only=True)
class ProcessSeen(Event):
    """A process imported torch."""

    kind = "process"
    record: Process


@dataclass(kw_only=True)
class Seen(Event):
    """A process got, for the first time, as far as ``what``: ``torch``, ``first batch``, ``forward``, ``backward``,
    ``optimizer step``, ``errand``."""

    kind = "seen"
    what: str
    site: str | None = None
    module: str | None = None


@dataclass(kw_only=True)
class OptionsSeen(Event):
    """Options of the script's own that would let it train longer: name and value now."""

    kind = "options"
    longer: list[tuple[str, str | None]]


@dataclass(kw_only=True)
class LoopFound(Event):
    """The training loop is known."""

    kind = "loop"
    record: Loop


@dataclass(kw_only=True)
class LinesSeen(Event):
    """Which lines the time went to while the loop still ran as its author wrote it."""

    kind = "lines"
    record: Lines


@dataclass(kw_only=True)
class LateStart(Event):
    """The loop was known late, behind a long first callback; the budget runs from ``seconds`` later on."""

    kind = "late_start"
    seconds: float


@dataclass(kw_only=True)
class TooSlow(Event):
    """A step takes so many seconds that the budget is over before anything can be tried."""

    kind = "too_slow"
    seconds: float


@dataclass(kw_only=True)
class StepUnknown(Event):
    """What one step of the loop is could not be made out before the budget was over."""

    kind = "step_unknown"
    calls: int
    """Of optimizers."""
    optimizers: int


@dataclass(kw_only=True)
class End(Event):
    """Perfdoc ends the script: it has what it needs."""

    kind = "end"
    reason: str


@dataclass(kw_only=True)
class ScriptFailed(Event):
    """The script's own uncaught exception."""

    kind = "failure"
    record: Failure


# -- the experiment


@dataclass(kw_only=True)
class Offered(Event):
    """What a treatment said it could do in this loop."""

    kind = "offer"
    record: Offer


@dataclass(kw_only=True)
class Progress(Event):
    """What is about to run, and what is settled so far."""

    kind = "progress"
    phase: str
    arm: str
    left: float
    """Seconds of the budget."""
    settled: dict[str, Judged]
    """Verdict by arm."""
    failed: list[str]
    plan: dict[str, str]


@dataclass(kw_only=True)
class Switched(Event):
    """Another configuration is being switched to. ``arm``: that it is measured for; ``config``: its id."""

    kind = "switch"
    arm: str
    config: str


@dataclass(kw_only=True)
class BlockEnded(Event):
    """A block was measured."""

    kind = "block"
    record: Block


@dataclass(kw_only=True)
class MomentPassed(Event):
    """A block of the user's own settings has ended: how large things had grown by then."""

    kind = "moment"
    record: Moment


@dataclass(kw_only=True)
class ArmFailed(Event):
    """An arm cannot run here."""

    kind = "arm_failed"
    arm: str
    error: str


@dataclass(kw_only=True)
class ArmCleared(Event):
    """What was first laid to this arm the script does by itself."""

    kind = "arm_cleared"
    arm: str


@dataclass(kw_only=True)
class Carried(Event):
    """An arm left tensors in the user's variables over which the step after it stumbled; that step was saved."""

    kind = "carried"
    arm: str
    error: str


@dataclass(kw_only=True)
class Measured(Event):
    """A metric was measured, or why it could not be."""

    kind = "measurement"
    metric: str
    unit: Unit | None = None
    samples: list[float] | None = None
    conditions: dict[str, str | int | float] | None = None
    how: How | None = None
    unavailable: str | None = None

    @staticmethod
    def of(found: Measurement | Unavailable) -> Measured:
        """The event that says so."""
        return Measured(**found.to_json())

    @property
    def found(self) -> Measurement | Unavailable:
        """The measurement. Raises KeyError or TypeError where the line was neither a measurement nor a reason."""
        return measurement.from_json({name: value for name, value in vars(self).items() if value is not None})


@dataclass(kw_only=True)
class NumericsCompared(Event):
    """The numbers of an arm beside the control's."""

    kind = "parity"
    record: Parity


@dataclass(kw_only=True)
class Outcome(Event):
    """What the experiment came to."""

    kind = "outcome"
    reason: str
    plan: dict[str, str]
    verdicts: dict[str, Judged]
    failed: dict[str, str]
    estimates: dict[str, Estimate] = field(default_factory=dict)
    seconds_left: float = 0.0


@dataclass(kw_only=True)
class StepTimed(Event):
    """A single step. Written to the step log (:mod:`perfdoc.core.step_log`), not as a line."""

    kind = "step"
    during: str
    """One of :data:`perfdoc.core.step_log.KINDS`."""
    seconds: float
    phases: Sequence[float]


# -- the loop, held inside its epoch


@dataclass(kw_only=True)
class Overran(Event):
    """The loop was given more batches than its epoch has."""

    kind = "overran"
    batches: int


@dataclass(kw_only=True)
class Natural(Event):
    """Epochs end from now on where they end without perfdoc."""

    kind = "natural"
    why: str
    loaders: int


@dataclass(kw_only=True)
class Woken(Event):
    """Workers that stood still were woken, because the loop did too."""

    kind = "woken"
    arm: str
    sources: int


@dataclass(kw_only=True)
class Stuck(Event):
    """The loop stands still for good."""

    kind = "stuck"
    arm: str
    still: float
    """Seconds without any sign."""


# -- the user's files


@dataclass(kw_only=True)
class FileRedirected(Event):
    """A file was written into the run's folder instead."""

    kind = "redirected"
    path: str
    to: str


@dataclass(kw_only=True)
class FileKept(Event):
    """A file whose removal was only pretended."""

    kind = "kept"
    path: str


@dataclass(kw_only=True)
class FileUnguarded(Event):
    """A file that was made past the guard."""

    kind = "unguarded"
    path: str


@dataclass(kw_only=True)
class FileSaved(Event):
    """A file of the user's that is about to be changed past the guard, and its copy in the run's folder."""

    kind = "saved"
    path: str
    copy: str


@dataclass(kw_only=True)
class FileChanged(Event):
    """The same, without a copy: it is too large for one, or no ordinary file."""

    kind = "unguarded_change"
    path: str


@dataclass(kw_only=True)
class TrackerOff(Event):
    """An experiment tracker was turned off or redirected."""

    kind = "tracker"
    name: str
    to: str


# -- other tasks than an experiment


@dataclass(kw_only=True)
class LoaderBenched(Event):
    """The loader that is being measured."""

    kind = "benched"
    record: BenchedLoader


@dataclass(kw_only=True)
class BenchFailed(Event):
    """The bench of a loader came to no end."""

    kind = "bench_failed"
    error: str


@dataclass(kw_only=True)
class PicturesFound(Event):
    """Files of pictures to compare decoders on."""

    kind = "pictures"
    paths: list[str]
    cores: float


@dataclass(kw_only=True)
class MemoryPlanned(Event):
    """The memory plan of a step, or why there is none. ``rows``: fields of :class:`perfdoc.memory.answer.Planned`."""

    kind = "memory_plan"
    model: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    device_memory: int | None = None
    largest: list[tuple[bool, str, str, int]] = field(default_factory=list)
    """Checkpointing, precision, optimizer, and the largest batch that fits."""
    error: str | None = None


@dataclass(kw_only=True)
class PaceMeasured(Event):
    """A block of one side of a paired run."""

    kind = "pace"
    seconds: float
    steps: int
    other: float
    """Seconds of steps that did other work."""
    faults: int


@dataclass(kw_only=True)
class Counted(Event):
    """What can be counted exactly in a step of one side."""

    kind = "counts"
    record: Counts


@dataclass(kw_only=True)
class Standing(Event):
    """One side stands still, with these workers."""

    kind = "standing"
    workers: list[int]
