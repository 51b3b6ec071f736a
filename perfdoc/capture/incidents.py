"""What a scan went through beside measuring. Kept in the capture, for whoever looks into a report of a bug."""

from __future__ import annotations

from dataclasses import dataclass, fields

from perfdoc.capture.event import Event

ENVELOPE = frozenset(field.name for field in fields(Event))
"""Fields that every event has."""


@dataclass(kw_only=True)
class Incident(Event):
    """Something that went wrong, or another way than usual, and that the scan survived."""

    def words(self) -> str:
        """What happened, in words."""
        return ", ".join(f"{f.name} {getattr(self, f.name)}" for f in fields(self) if f.name not in ENVELOPE)


@dataclass(kw_only=True)
class InjectFailed(Incident):
    """Perfdoc could not get into the process."""

    kind = "inject_failed"
    error: str


@dataclass(kw_only=True)
class HookFailed(Incident):
    """A hook on an import raised."""

    kind = "hook_failed"
    error: str


@dataclass(kw_only=True)
class ProbeFailed(Incident):
    """A probe raised."""

    kind = "probe_failed"
    probe: str
    error: str


@dataclass(kw_only=True)
class NotesFailed(Incident):
    """What a treatment noticed could not be written down."""

    kind = "notes_failed"
    treatment: str
    error: str


@dataclass(kw_only=True)
class NumericsFailed(Incident):
    """The comparison of numbers raised."""

    kind = "parity_failed"
    error: str


@dataclass(kw_only=True)
class RestoreFailed(Incident):
    """A treatment could not be undone; the experiment ends with it."""

    kind = "restore_failed"
    treatment: str
    error: str


@dataclass(kw_only=True)
class CloseFailed(Incident):
    """What perfdoc had started in the process could not be ended in order."""

    kind = "close_failed"
    error: str


@dataclass(kw_only=True)
class HardExit(Incident):
    """The process was ended without asking the script."""

    kind = "hard_exit"
    why: str


@dataclass(kw_only=True)
class Orphaned(Incident):
    """The scan was killed while the script ran."""

    kind = "orphaned"


@dataclass(kw_only=True)
class Stalled(Incident):
    """The loop gives no sign; all stacks were written down."""

    kind = "stalled"
    arm: str


@dataclass(kw_only=True)
class WentOn(Incident):
    """After a standstill the loop went on."""

    kind = "went_on"


@dataclass(kw_only=True)
class AnotherLoop(Incident):
    """Another optimizer ends the steps now: one layer after the other is trained."""

    kind = "another_loop"
    optimizers: int


@dataclass(kw_only=True)
class Held(Incident):
    """A framework's own count of batches is held too."""

    kind = "held"
    framework: str


@dataclass(kw_only=True)
class UnwatchedFound(Incident):
    """Torch was loaded in a process that perfdoc is not in."""

    kind = "unwatched"
    pid: int
    command: str


@dataclass(kw_only=True)
class Resumed(Incident):
    """A suspended script was told to go on. Told to the person who watches, not written."""

    kind = "resumed"
    why: str


@dataclass(kw_only=True)
class Relaunched(Incident):
    """The script is started again. Told to the person who watches, not written."""

    kind = "relaunch"
    why: str

