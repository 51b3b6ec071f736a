"""Finds out what one step of the user's loop is.

A step is one optimizer cycle. With several optimizers (GANs) the cycle ends with the *anchor*: the optimizer called
least often, and among equals the one after which the next batch is fetched. With gradient accumulation a step has
several batches. Loops without any optimizer (``p.data.add_(...)``) count backward calls instead.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from perfdoc.core.metrics import PHASES
from perfdoc.inject.observe.clock import Partial

BACKWARD_ONLY = 0
"""Key of the stand-in optimizer of loops that update parameters by hand."""

RARELY = 16
"""An optimizer called less than 1/16 as often as the busiest does not end the step (say, one of a lazy regulariser)."""


ANY_NUMBER = 10**9
LOST = 40
LOST_FACTOR = 8
"""Minimum number of optimizer calls, and of times those of a step, after which an optimizer that ended the steps is taken to be
used no more."""

Step = Partial
"""One optimizer cycle: seconds in all and by phase, and what happened in it. Mostly a single partial is a step already."""


@dataclass(frozen=True)
class Shape:
    """What an ordinary step of this loop looks like; medians over the observed steps."""

    anchor: int
    batches: int
    fetches: dict[int, int]
    forwards: int
    backwards: int
    optimizer_calls: int

    def regular(self, step: Step) -> bool:
        """Whether ``step`` did only what steps do: no other loader, no burst of extra forwards (validation)."""
        for key, count in step.fetches.items():
            if count > 2 * self.fetches.get(key, -1) + 1:
                return False
        return step.forwards <= 2 * self.forwards + 1


def merge(partials: Sequence[Partial]) -> Step:
    """Several partials as one step."""
    fetches: Counter[int] = Counter()
    for partial in partials:
        fetches.update(partial.fetches)
    return Step(
        sum(p.seconds for p in partials),
        tuple(sum(column) for column in zip(*(p.phases for p in partials), strict=True)),
        dict(fetches),
        sum(p.forwards for p in partials),
        sum(p.backwards for p in partials),
        len(partials),
    )


@dataclass
class StepFinder:
    """Collects partials until the loop's shape is clear, then turns partials into steps."""

    shape: Shape | None = None
    observed: list[tuple[int, Partial]] = field(default_factory=list)
    _open: list[Partial] = field(default_factory=list)
    changed: bool = False
    """Whether the loop has turned out to be another one since this was last looked at."""
    _keys: list[int] = field(default_factory=list)

    def anchor(self) -> int | None:
        """The key of the optimizer that ends a step, as far as seen; None before any was called."""
        counts = Counter(key for key, _ in self.observed)
        if not counts:
            return None
        enough = [key for key, count in counts.items() if count * RARELY >= max(counts.values())]
        fewest = min(counts[key] for key in enough)
        # Observation may end in mid-cycle: calls that differ by one are equally frequent.
        equal = [key for key in enough if counts[key] <= fewest + 1]
        before_fetch: Counter[int] = Counter()
        for (key, _), (_, following) in zip(self.observed, self.observed[1:], strict=False):
            if following.fetches:
                before_fetch[key] += 1
        order = list(dict.fromkeys(key for key, _ in self.observed))
        return max(equal, key=lambda key: (before_fetch[key], order.index(key)))

    def steps(self) -> list[Step]:
        """The observed partials as steps, the incomplete first and last cycle left out."""
        anchor = self.anchor()
        if anchor is None:
            return []
        found: list[Step] = []
        current: list[Partial] = []
        for key, partial in self.observed:
            current.append(partial)
            if key == anchor:
                found.append(merge(current))
                current = []
        return found[1:]

    def shares(self) -> dict[str, float]:
        """Share of the observed steps that each phase took."""
        steps = self.steps()
        total = sum(step.seconds for step in steps) or 1.0
        return {name: sum(step.phases[place] for step in steps) / total for place, name in enumerate(PHASES)}

    def settle(self) -> Shape | None:
        """Fix the loop's shape from what was observed; None below three whole steps."""
        steps, anchor = self.steps(), self.anchor()
        if len(steps) < 3 or anchor is None:
            return None
        keys = {key for step in steps for key in step.fetches}
        fetches = {key: round(statistics.median(step.fetches.get(key, 0) for step in steps)) for key in keys}
        fetches = {key: count for key, count in fetches.items() if count}
        # The observed list may end inside a cycle: what is open belongs to the next step.
        self._open = []
        for key, partial in reversed(self.observed):
            if key == anchor:
                break
            self._open.insert(0, partial)
        self.shape = Shape(
            anchor,
            max(fetches.values(), default=0),
            fetches,
            round(statistics.median(step.forwards for step in steps)),
            round(statistics.median(step.backwards for step in steps)),
            round(statistics.median(step.optimizer_calls for step in steps)),
        )
        return self.shape

    def relax(self) -> None:
        """Take the number of calls of the model for no mark of a step any more: it varies (episodes, unrolled recurrences)."""
        if self.shape is not None:
            self.shape = replace(self.shape, forwards=ANY_NUMBER)

    def _find_again(self) -> None:
        """Settle on the step that the calls since the last one make; the one before where they make none."""
        before, self.observed = self.shape, list(zip(self._keys, self._open[-len(self._keys):], strict=True))
        self._open, self._keys = [], []
        if self.settle() is None:
            self.shape = before
        self.observed = []
        self.changed = self.shape is not before

    def add(self, key: int, partial: Partial) -> Step | None:
        """Take a partial; the finished step if it ended one, once the shape is settled."""
        if self.shape is None:
            self.observed.append((key, partial))
            return None
        if key != self.shape.anchor:
            self._open.append(partial)
            self._keys.append(key)
            if len(self._open) >= max(LOST, LOST_FACTOR * self.shape.optimizer_calls):
                self._find_again()
            return None
        self._keys.clear()
        if not self._open:
            return partial
        step = merge([*self._open, partial])
        self._open = []
        return step
