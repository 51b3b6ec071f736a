"""Writes the phases of single steps beside the events."""

from __future__ import annotations

from collections.abc import Sequence

from perfdoc.core import step_log
from perfdoc.inject.system.recorder import Recorder

CONTROL_STEP, OBSERVED_STEP, CLOCK_STEP, IRREGULAR_STEP = range(len(step_log.KINDS))
KEPT_STEPS = 4000
"""Maximum number of steps that are written one by one; later ones are only in their blocks."""


class StepWriter:
    """``limited``: no more than ``KEPT_STEPS`` are written, though all are counted."""

    def __init__(self, recorder: Recorder, limited: bool) -> None:
        self.count = 0
        self._recorder = recorder
        self._limited = limited

    def write(self, kind: int, seconds: float, phases: Sequence[float]) -> None:
        """Write a step that took ``seconds``, by phase."""
        self.count += 1
        if self.count <= KEPT_STEPS or not self._limited:
            self._recorder.steps.add(kind, seconds, phases)
