"""Events as lines of JSON and back: the one writer and the one reader. Standard library only."""

from __future__ import annotations

import json
from typing import Any

from perfdoc.capture import events as _events  # noqa: F401 (its classes are the kinds)
from perfdoc.capture.event import Event
from perfdoc.capture.incidents import ENVELOPE
from perfdoc.capture.offers_of_before import as_today
from perfdoc.core.typed_json import from_json, to_json


def _kinds(base: type[Event]) -> dict[str, type[Event]]:
    found = {base.kind: base} if base.kind else {}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found


KINDS = _kinds(Event)
"""Every kind of event, by its name on disk."""


def to_entry(event: Event) -> dict[str, Any]:
    """An event as the object of its line."""
    content: dict[str, Any] = {name: value for name, value in to_json(event).items() if name not in ENVELOPE}
    record: dict[str, Any] = content.pop("record", {})
    return {"e": event.kind, "t": event.t, "lap": event.lap, **record, **content}


def from_entry(entry: dict[str, Any], file: str = "") -> Event | None:
    """An event from the object of its line; None where the kind is not known, or a field is missing."""
    kind = KINDS.get(entry.get("e", ""))
    if kind is None:
        return None
    if "record" in kind.__dataclass_fields__:
        record = as_today(entry) if kind.kind == "offer" else entry
        entry = {"t": entry.get("t", 0.0), "lap": entry.get("lap", 0), "record": {"lap": 0, **record}}
    try:
        event = from_json(kind, entry)
    except (KeyError, TypeError, ValueError, AttributeError):  # a field is missing, or something is not an object
        return None
    event.file = file
    return event


def decode(line: str | bytes, file: str = "") -> Event | None:
    """An event from its line; None where it is none: cut off by a kill, or of a kind that only another version knows.

    ``file``: stem of the file that the line stands in.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return from_entry(entry, file) if isinstance(entry, dict) else None
