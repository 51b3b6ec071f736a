"""How several ranks of one machine switch at the same step: rank 0 announces, the others follow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

from perfdoc.core.treatment import CONTROL, Config, Treatment
from perfdoc.inject.experiment.switcher import Allocator, Switcher
from perfdoc.inject.observe.loop_context import LoopContext

LOOKAHEAD = 2
"""Number of steps between announcing a switch and making it: no rank can be further ahead of another than one step."""


class Announcements:
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


class RankFollower:
    """What ranks other than 0 do: switch when, and to what, rank 0 announced. ``hold`` is called before the first switch."""

    def __init__(
        self, context: LoopContext, treatments: Mapping[str, Treatment], allocator: Allocator, hold: Callable[[], None]
    ) -> None:
        self.switcher = Switcher(context, treatments, allocator, self._broken)
        self._context = context
        self._loop = context.loop
        self._announcements = Announcements(context.recorder.run_dir, context.recorder.lap)
        self._hold = hold
        self._next: tuple[int, Config | None] | None = None

    def on_call(self) -> None:
        """An optimizer call has ended: look for news, and switch if it is time."""
        loop = self._loop
        if self._next is None:
            self._next = self._announcements.read()
            if self._next is not None and not loop.holding:
                self._hold()
        if self._next is None or loop.optimizer_calls < self._next[0]:
            return
        config = self._next[1]
        self._next = None
        if config is None:
            self.switcher.switch(CONTROL)
            self._context.end("rank 0 ended the experiment")
        self.switcher.switch(config)
        for handle in loop.loaders:
            with self._context.clock.drawing():
                handle.drain(loop.step_seconds)
        self._context.clock.restart()

    def _broken(self, why: str) -> None:
        """What cannot be undone ends all ranks at one step: a rank alone would wait for the others' gradients for ever."""
        self._announcements.announce(self._loop.optimizer_calls + LOOKAHEAD * self._loop.calls_a_step, None)
