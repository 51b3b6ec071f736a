"""How several ranks of one machine agree at which step to switch."""

from __future__ import annotations

import json
import os

from perfdoc.core.treatment import Config


class Schedule:
    """Switches announced by rank 0 to the other ranks on the same machine, through a file in the run's folder."""

    def __init__(self, run_dir: str, lap: int) -> None:
        self._path = os.path.join(run_dir, f"schedule-{lap}.jsonl")
        self._offset = 0

    def announce(self, at: int, config: Config | None) -> None:
        """From optimizer call number ``at`` on, every rank is to run under ``config``; None: end."""
        with open(self._path, "a", encoding="ascii") as f:
            f.write(json.dumps({"at": at, "config": None if config is None else dict(config)}) + "\n")

    def read(self) -> tuple[int, Config | None] | None:
        """The next announcement not yet read, or None."""
        try:
            with open(self._path, encoding="ascii") as f:
                f.seek(self._offset)
                line = f.readline()
                if not line.endswith("\n"):
                    return None
                self._offset = f.tell()
        except OSError:
            return None
        entry = json.loads(line)
        return int(entry["at"]), entry["config"]
