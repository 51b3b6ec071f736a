"""Puts treatments on and takes them off between two steps, and takes them off at once where they break one."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from perfdoc.capture import events, incidents
from perfdoc.core.treatment import CONTROL, Config, Treatment, config_id
from perfdoc.inject.experiment.arm_results import OUT_OF_MEMORY
from perfdoc.inject.observe.loop_context import LoopContext


class Allocator(Protocol):
    """What the allocator has learned under each arm (see ``heap_thresholds.ArmThresholds``)."""

    def enter(self, config: Config) -> None:
        """Go on with what ``config`` found for itself."""

    def settle(self, config: Config) -> None:
        """A block of ``config`` has ended."""

    def apart(self) -> AbstractContextManager[None]:
        """Steps that are no arm's work."""


class Switcher:
    """The arm that the loop is in. ``broken`` is called with the reason where a treatment could not be undone."""

    def __init__(
        self, context: LoopContext, treatments: Mapping[str, Treatment], allocator: Allocator, broken: Callable[[str], None]
    ) -> None:
        self.treatments = treatments
        self.active: tuple[Treatment, ...] = ()
        """Treatments that are on."""
        self.config: Config = CONTROL
        self.failure: str | None = None
        """Why the arm that was on, or was to be entered, cannot run here; None where it can."""
        self._context = context
        self._loop = context.loop
        self._allocator = allocator
        self._broken = broken
        self._left: Config = CONTROL
        """The last arm that was left of those that compute other numbers than the user's own settings."""
        self._stumbled: set[str] = set()

    def switch(self, config: Config) -> None:
        """Leave the current arm and enter ``config``. A treatment that raises is undone and fails its arm."""
        self._context.device.wait()
        leaves = any(config.get(slug) != level for slug, level in self.config.items())
        if leaves and any(self.treatments[slug].numerics for slug in self.config):
            self._left = self.config
        for slug in [s for s in self.config if config.get(s) != self.config[s]]:
            self._undo(slug)
        applied = {s: level for s, level in self.config.items() if config.get(s) == level}
        try:
            for slug in [s for s in config if s not in applied]:
                applied[slug] = config[slug]
                self.treatments[slug].apply(self._loop, config[slug])
        except Exception as error:  # treatments may come from third parties: undone below, the reason fails the arm
            self.failure = f"{type(error).__name__}: {error}"
            for slug in applied:
                self._undo(slug)
            applied = {}
        self.config = applied
        self._allocator.enter(applied)
        self.active = tuple(self.treatments[slug] for slug in applied)

    def announced(self, config: Config) -> None:
        """Switch beside the blocks; the parent is told, so that it knows what was on if the script dies."""
        if config != self.config:
            self._context.recorder.write(events.Switched(arm=config_id(config), config=config_id(config)))
        self.switch(config)

    def _undo(self, slug: str) -> None:
        try:
            self.treatments[slug].restore(self._loop)
        except Exception:
            # What cannot be undone would spoil every later block: stop here with what was measured.
            self._context.recorder.write(incidents.RestoreFailed(treatment=slug, error=traceback.format_exc(limit=5)))
            self.config, self.active = CONTROL, ()
            self._broken(f"treatment {slug} could not be undone")

    def fail(self, error: BaseException | str) -> None:
        """A treatment broke the user's step: go back to the control at once; the arm is given up.

        ``error``: what was raised, or why in words.
        """
        if isinstance(error, str):
            self.failure = error
        else:
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
            self.failure = f"{OUT_OF_MEMORY} ({said})" if _out_of_memory(error) else said
        self.switch(CONTROL)

    # -- what an arm is

    def work(self, config: Config) -> float:
        """Samples a step under ``config``, relative to the user's own."""
        return math.prod(self.treatments[slug].work(level) for slug, level in config.items())

    def period(self, config: Config) -> int:
        """Steps after which what ``config`` does repeats; a step may make as many times the user's calls of the model."""
        return math.lcm(*(self.treatments[slug].period(level) for slug, level in config.items()))

    def enlarged(self) -> dict[int, int]:
        """The user's batch size by the one that the arm makes of it, where it makes larger ones."""
        factor = round(self.work(self.config))
        sizes = [handle.loader.batch_size or getattr(handle.loader.batch_sampler, "batch_size", None)
                 for handle in self._loop.loaders]
        return {size * factor: size for size in sizes if isinstance(size, int)} if factor > 1 else {}

    # -- what an arm leaves in the user's variables

    @property
    def may_stumble(self) -> bool:
        """Whether the loop may hold what it computed under a change: a pool of old pictures keeps them as long as it likes."""
        return bool(self._left)

    def stumbled(self, error: BaseException) -> None:
        """A step after a change failed over what the change had left in the user's variables, and was saved."""
        arm = config_id(self._left)
        if arm not in self._stumbled:
            self._stumbled.add(arm)
            self._context.recorder.write(events.Carried(arm=arm, error=f"{type(error).__name__}: {error}"[:500]))


def _out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, on the host or on a device."""
    words = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and ("can't allocate memory" in words or "out of memory" in words))
