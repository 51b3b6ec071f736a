"""Holds the loop inside its epoch, and lets go where the script notices that its epoch does not end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perfdoc.inject.feed.epoch import SHORTEST_STEPS
from perfdoc.inject.observe import frameworks
from perfdoc.inject.observe.loop_state import LoopState
from perfdoc.inject.observe.step_finder import Step
from perfdoc.inject.system.recorder import Recorder

CHANGED_STEPS = 6
"""Minimum number of steps in a row, under the user's own settings and beyond the epoch's natural length, that do other work
than the steps before: then the script sees that its epoch does not end."""
USUAL_SHARE = 0.9
"""Minimum share of the steps before that did the same work, for other work afterwards to mean anything."""


class EpochHold:
    """The hold on one loop. ``natural``: epochs are to end where they end without perfdoc, from the start."""

    def __init__(self, loop: LoopState, recorder: Recorder, natural: bool = False) -> None:
        self._loop = loop
        self._recorder = recorder
        self._turns = 0
        """Epochs that ended while the loop was held, as far as steps have been looked at."""
        self._other_work = 0
        self._work_done: Counter[Any] = Counter()
        """Steps under the user's own settings, held and within the natural length of the epoch, by what they did."""
        loop.natural = natural

    def begin(self) -> None:
        """Keep the loop inside its epoch from now on."""
        loop = self._loop
        if loop.finder.shape is None:
            loop.finder.settle()
        for handle in loop.loaders:
            handle.hold()
            handle.epoch.overran = self._overran
        loop.holding = True
        if loop.natural:
            self.go_natural("an earlier launch failed beyond the natural length of its epoch")
            return
        for framework in frameworks.hold():
            self._recorder.write("held", framework=framework)

    def _overran(self, length: int) -> None:
        """The loop is about to be given one batch more than its epoch has."""
        if not self._loop.overran:
            self._loop.overran = True
            self._recorder.write("overran", batches=length)

    def go_natural(self, why: str) -> None:
        """Let epochs end where they end without perfdoc, from the next batch on."""
        self._loop.natural = True
        held = [handle for handle in self._loop.loaders if handle.epoch.length is not None]
        for handle in held:
            handle.epoch.natural = True
        self._recorder.write("natural", why=why, loaders=len(held))

    def turned(self) -> bool:
        """Whether an epoch ended within the step that has just ended. To be asked once a step."""
        turns = sum(handle.epoch.turns for handle in self._loop.loaders)
        before, self._turns = self._turns, turns
        return turns > before

    def long_epochs(self) -> bool:
        """Whether an epoch has ordinary steps beside the one with its turn."""
        return all(
            handle.epoch.length is None or handle.epoch.length >= SHORTEST_STEPS * handle.batches_a_step
            for handle in self._loop.loaders
        )

    def let_go(self, step: Step, changed: bool) -> bool:
        """Let epochs end where the script notices the hold; whether that was decided now.

        ``changed``: the step ran under a change. Only steps under the user's own settings are looked at.
        """
        if not self._noticed(step, changed):
            return False
        self.go_natural("its steps did other work beyond the natural length of the epoch")
        return True

    def _noticed(self, step: Step, changed: bool) -> bool:
        """Whether steps do other work since the epoch's natural length was passed."""
        loop = self._loop
        if loop.natural or changed or loop.ranks > 1:  # all ranks end an epoch, or none
            return False
        work = (tuple(sorted(step.fetches.items())), step.backwards, step.optimizer_calls)
        if not loop.overran:
            self._work_done[work] += 1
            return False
        usual, count = max(self._work_done.items(), key=lambda entry: entry[1], default=(work, 0))
        if count < max(CHANGED_STEPS, USUAL_SHARE * self._work_done.total()):
            return False
        self._other_work = 0 if work == usual else self._other_work + 1
        return self._other_work >= CHANGED_STEPS
