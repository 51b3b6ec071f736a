"""The ranks that do not experiment: they switch when, and to what, rank 0 announced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from perfdoc.core.treatment import CONTROL, Config, Treatment
from perfdoc.inject.experiment.runner import Conductor
from perfdoc.inject.experiment.schedule import Schedule

if TYPE_CHECKING:
    from perfdoc.inject.session import Session


class Follower:
    """What ranks other than 0 do: switch when and to what rank 0 announced."""

    def __init__(self, session: Session, treatments: Mapping[str, Treatment]) -> None:
        self._conductor = Conductor(session, treatments, [])
        self._schedule = Schedule(session.recorder.run_dir, session.lap)
        self._session = session
        self._next: tuple[int, Config | None] | None = None

    @property
    def active(self) -> tuple[Treatment, ...]:
        """Treatments that are applied now."""
        return self._conductor.active

    def on_call(self) -> None:
        """An optimizer call has ended: look for news, and switch if it is time."""
        if self._next is None:
            self._next = self._schedule.read()
            if self._next is not None and not self._session.holding:
                self._session.hold()
        if self._next is None or self._session.optimizer_calls < self._next[0]:
            return
        config = self._next[1]
        self._next = None
        if config is None:
            self._conductor.switch(CONTROL)
            self._session.end("rank 0 ended the experiment")
            return
        self._conductor.switch(config)
        for handle in self._session.loop.loaders:
            handle.drain(self._session.loop.step_seconds)
        self._session.clock.restart()
