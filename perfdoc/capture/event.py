"""What all events of a run have in common. Standard library only: it runs in the user's process too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

E = TypeVar("E", bound="Event")


@dataclass(kw_only=True)
class Event:
    """Something that happened in a process of a run."""

    kind: ClassVar[str] = ""
    """Its name on disk, under the key ``e``; empty for classes that are no kind of their own."""
    t: float = 0.0
    """Seconds since the epoch; 0 where it was not written (single steps, what is only shown)."""
    lap: int = 0
    """Launch of the command, from 0."""
    file: str = ""
    """Stem of the file that it was read from, which tells processes apart; not written."""


def of(kind: type[E], events: Iterable[Event], lap: int | None = None) -> list[E]:
    """The events of one kind, in their order; of one launch, where ``lap`` is given."""
    return [event for event in events if isinstance(event, kind) and (lap is None or event.lap == lap)]


def first(kind: type[E], events: Iterable[Event]) -> E | None:
    """The first event of one kind; None where there is none."""
    return next((event for event in events if isinstance(event, kind)), None)


def last(kind: type[E], events: Sequence[Event]) -> E | None:
    """The last event of one kind; None where there is none."""
    return first(kind, reversed(events))
