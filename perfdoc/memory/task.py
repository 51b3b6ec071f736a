"""The memory plan of a script's own step: caught in its running loop, then worked out on tensors without data.

Runs in the user's process, so it needs nothing beyond torch.
"""

from __future__ import annotations

import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from perfdoc.capture.events import MemoryPlanned
from perfdoc.core.errors import PerfdocError
from perfdoc.inject.observe.autocast_use import watch_autocast
from perfdoc.inject.observe.step_finder import Step
from perfdoc.inject.samples.step_capture import StepCapture
from perfdoc.memory import plan as memory

if TYPE_CHECKING:
    from perfdoc.inject.session import Session


class Task:
    """What is done with the loop in place of an experiment (see ``Session``)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._capture = StepCapture()
        self.active = (self._capture,)
        # Around the whole loop, or entered within the step that is watched.
        self._autocast = torch.is_autocast_enabled(session.loop.device)
        self._end_watch = watch_autocast(self._autocast_entered)

    def _autocast_entered(self) -> None:
        self._autocast = True

    def on_step(self, step: Step, regular: bool) -> None:
        """A whole step was watched: plan, tell the parent, end the script."""
        session, capture = self._session, self._capture
        capture.stop()
        self._end_watch()
        session.enabled = False
        try:
            session.recorder.write(self._plan())
        except PerfdocError as error:
            session.recorder.write(MemoryPlanned(error=str(error)))
        except Exception:  # users' models of any kind are copied and run without data: the parent shows where it broke
            session.recorder.write(MemoryPlanned(error=traceback.format_exc(limit=-3)))
        finally:
            session.enabled = True
        session.end("memory planned")

    def _plan(self) -> MemoryPlanned:
        asked = self._session.settings.memory
        assert asked is not None
        loop, step = self._session.loop, self._capture.step
        if step is None or self._capture.why:
            why = self._capture.why or "no model was called with gradients in the step that was watched"
            raise PerfdocError(f"this step cannot be planned: {why}. `perfdoc scan` measures the memory of the real step.")
        if len(loop.optimizers) != 1:
            raise PerfdocError(
                f"this step has {len(loop.optimizers)} optimizers; the plan is for one. `perfdoc scan` measures the memory of "
                "the real step."
            )
        plan = memory.plan_step(
            step.module, step.batch, step.loss, loop.optimizers[0], batch_sizes=asked.batches,
            device_memory=asked.device_memory, checkpointing=asked.checkpointing,
            precisions=asked.precisions or (("bf16",) if self._autocast else ("float32", "bf16")),
            optimizers=asked.optimizers,
        )
        return MemoryPlanned(
            rows=[asdict(row) for row in plan.rows], device_memory=plan.device_memory,
            largest=[(*key, size) for key, size in plan.largest.items()], model=type(step.module).__name__,
        )
