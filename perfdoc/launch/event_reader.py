"""Reads the events of a run while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from perfdoc.capture.event import E, Event, of
from perfdoc.capture.event_lines import decode
from perfdoc.capture.events import Seen


@dataclass
class EventReader:
    """What the parent has read from the event files so far."""

    folder: Path
    lap: int = 0
    events: list[Event] = field(default_factory=list)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def news(self) -> list[Event]:
        """Events written since the last call (single steps are in the step log)."""
        found: list[Event] = []
        for file in sorted(self.folder.glob(f"events-{self.lap}-*.jsonl")):
            with file.open("rb") as f:
                f.seek(self._offsets.get(file, 0))
                data = f.read()
            whole = data.rfind(b"\n") + 1
            self._offsets[file] = self._offsets.get(file, 0) + whole
            found += [event for line in data[:whole].splitlines() if (event := decode(line, file.stem)) is not None]
        self.events += found
        return found

    def this_lap(self, kind: type[E]) -> list[E]:
        """Events of one kind of the current launch."""
        return of(kind, self.events, self.lap)

    def seen(self) -> dict[str, Seen]:
        """What the current launch's processes got to, by name."""
        return {seen.what: seen for seen in self.this_lap(Seen)}
