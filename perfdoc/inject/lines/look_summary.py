"""From samples and the ends of steps to seconds by path: within ordinary steps, and in what was no ordinary step."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType

from perfdoc.inject.lines.stack_path import Path, PathReader
from perfdoc.inject.lines.stack_sampler import Sample, Stack

LONG_STEP = 3.0
"""Minimum length, in times of the median step, of a step that is taken to hold more than steps do."""


@dataclass
class Steps:
    """Steps that were looked at, from ``began`` on, in seconds of ``time.perf_counter``."""

    began: float
    ends: list[float] = field(default_factory=list)
    regular: list[bool] = field(default_factory=list)
    """Whether each did what steps of the loop do, and no epoch ended within it."""

    def add(self, now: float, regular: bool) -> None:
        """A step has ended."""
        self.ends.append(now)
        self.regular.append(regular)

    def number(self, moment: float) -> int | None:
        """The step that a moment lies in; None for none."""
        place = bisect_left(self.ends, moment)
        return place if moment > self.began and place < len(self.ends) else None


@dataclass
class Summary:
    """Seconds by path and stretch."""

    steps: int
    """Ordinary ones."""
    stretch_seconds: list[float]
    other_seconds: float
    in_steps: dict[tuple[Path, int], float]
    between: dict[Path, float]
    stretch_of_step: list[int | None]

    def stretch_at(self, steps: Steps, moment: float, about: float) -> int | None:
        """The stretch that lies nearest to a moment, which is known to within ``about`` seconds; None outside of the look.

        Workers make batches during the turn of an epoch as well, which belongs to no stretch.
        """
        if not steps.ends or not steps.began - about <= moment <= steps.ends[-1] + about:
            return None
        here = min(bisect_left(steps.ends, moment), len(steps.ends) - 1)
        for away in range(len(steps.ends)):
            for number in (here - away, here + away):
                if 0 <= number < len(steps.ends) and self.stretch_of_step[number] is not None:
                    return self.stretch_of_step[number]
        return None


class StackReader:
    """Reads stacks of one sampler; what is known is kept."""

    def __init__(self, codes: Mapping[int, CodeType], stacks: Sequence[Stack]) -> None:
        self._reader = PathReader(codes)
        self._stacks = stacks
        self._paths: dict[int, Path] = {}

    def path(self, place: int) -> Path:
        """The path of the stack at this place of the sampler's."""
        if place not in self._paths:
            self._paths[place] = self._reader.read(self._stacks[place])
        return self._paths[place]


def summarise(steps: Steps, samples: Iterable[Sample], reader: StackReader, most_stretches: int) -> Summary:
    """What the samples of these steps say; ordinary steps are divided into ``most_stretches`` at most."""
    starts = [steps.began, *steps.ends[:-1]]
    lengths = [end - start for start, end in zip(starts, steps.ends, strict=True)]
    usual = statistics.median([n for n, o in zip(lengths, steps.regular, strict=True) if o] or lengths)
    seconds_of: dict[int, dict[Path, float]] = defaultdict(lambda: defaultdict(float))
    for at, weight, place in samples:
        number = steps.number(at - weight / 2)
        if number is not None:
            seconds_of[number][reader.path(place)] += weight
    ordinary = _ordinary(steps, lengths, usual, seconds_of)
    stretch_of_step = stretches_of(ordinary, most_stretches)
    stretches = max((s for s in stretch_of_step if s is not None), default=-1) + 1
    in_stretch, other = [0.0] * stretches, 0.0
    in_steps: dict[tuple[Path, int], float] = defaultdict(float)
    for number, (length, stretch) in enumerate(zip(lengths, stretch_of_step, strict=True)):
        if stretch is None:
            other += max(0.0, length - usual)
            continue
        in_stretch[stretch] += length
        for path, seconds in seconds_of.get(number, {}).items():
            in_steps[path, stretch] += seconds
    others = {number: found for number, found in seconds_of.items() if stretch_of_step[number] is None}
    between = beyond_steps(others, in_steps, sum(ordinary), lengths, usual)
    return Summary(sum(ordinary), in_stretch, other, in_steps, between, stretch_of_step)


def _ordinary(
    steps: Steps, lengths: Sequence[float], usual: float, seconds_of: Mapping[int, Mapping[Path, float]],
) -> list[bool]:
    """Of every step whether it is an ordinary one. A long one that did what the others do is: the machine stalled."""
    short = [o and n <= LONG_STEP * usual for n, o in zip(lengths, steps.regular, strict=True)]
    known = {path for number, found in seconds_of.items() if short[number] for path in found}
    ordinary = []
    for number, (one, regular) in enumerate(zip(short, steps.regular, strict=True)):
        found = seconds_of.get(number, {})
        usual_work = sum(seconds for path, seconds in found.items() if path in known)
        ordinary.append(one or (regular and usual_work > sum(found.values()) / 2))
    return ordinary


def stretches_of(ordinary: Sequence[bool], most: int) -> list[int | None]:
    """The stretch of every ordinary step; None for the others."""
    count = sum(ordinary)
    stretches = min(most, count)
    found: list[int | None] = []
    before = 0
    for one in ordinary:
        found.append(before * stretches // count if one else None)
        before += one
    return found


def beyond_steps(
    long_steps: Mapping[int, Mapping[Path, float]], in_steps: Mapping[tuple[Path, int], float], ordinary: int,
    lengths: Sequence[float], usual: float,
) -> dict[Path, float]:
    """What the steps that were no ordinary ones did beyond what ordinary ones do, in seconds by path.

    A step with the turn of an epoch in it is a step too: what an ordinary one does by path is taken off it.
    """
    step: dict[Path, float] = defaultdict(float)
    for (path, _), seconds in in_steps.items():
        step[path] += seconds / max(1, ordinary)
    found: dict[Path, float] = defaultdict(float)
    for number, seconds_of in long_steps.items():
        beyond = {path: seconds - step[path] for path, seconds in seconds_of.items() if seconds > step[path]}
        total, excess = sum(beyond.values()), max(0.0, lengths[number] - usual)
        for path, seconds in beyond.items():
            found[path] += seconds * excess / total
    return found
