"""Where the time of a step goes, by the user's own lines, and what a step would take at least if a line cost nothing.

Worked out from the stacks in the capture (``perfdoc.capture.lines``). Where the training thread waits for workers, its wait is
divided by what the workers do. Shares are of the ordinary steps that were looked at; their 95% intervals come from how far
the stretches of the look lie apart.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

from perfdoc.capture.lines import Line, Lines, StackPath
from perfdoc.capture.records import Loop
from perfdoc.core import stats
from perfdoc.diagnosis.line_causes import Between, Cause, Row, Share

WAITING, IDLE, PYTHON = "waiting for workers", "idle", "Python"
"""Leaves of paths, as ``perfdoc.inject.lines.stack_path`` writes them."""
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>")
STEP_PHASES = ("data", "forward", "backward", "optimizer")
LEARNING = ("backward", "optimizer")
"""Those of them that a validation has not."""
LEAST_PHASE = 0.005
"""Minimum share of the step for a phase to count as one that a function has."""
ONE_CHILD = 0.8
"""Minimum share of a function's time that a function called by it has for that one to be named in its place."""
HOT_LINES = 0.8
"""Minimum share of a function's time that the lines which are named for it have."""
CODE = 0.6
"""Minimum share of the time under a model's call that is not torch's for it to count as code of the user's."""

Where = tuple[str, str]
"""A file and a function in it."""


class TimeByLine:
    """What the stacks of one loop say. ``free_step``: seconds of a step whose loader costs nothing, where that is known."""

    def __init__(self, loop: Loop | None, seen: Lines, free_step: float | None = None) -> None:
        self._seen = seen
        self._free_step = free_step
        self._losses = frozenset(f"{name}.forward" for name in (loop.losses if loop else []))
        self._workers = sum(loader.num_workers for loader in loop.loaders) if loop else 0
        lengths = [one.batches_an_epoch / one.batches_a_step for one in (loop.loaders if loop else []) if one.batches_an_epoch]
        self._epoch_steps = min(lengths) if lengths else None
        self.total = math.fsum(seen.stretch_seconds)
        self.step = self.total / max(1, seen.steps)
        """Mean seconds of an ordinary step that was looked at."""

    # -- the step

    @cached_property
    def rows(self) -> list[Row]:
        """Stacks of ordinary steps, with the wait for workers divided by what they do."""
        seen = self._seen
        busy = [path for path in seen.in_workers if path.leaf != IDLE and path.phase == "data"]
        in_all = math.fsum(math.fsum(path.seconds) for path in busy)
        backward = math.fsum(math.fsum(path.seconds) for path in seen.backward)
        found = []
        for path in seen.in_steps:
            lines = self._users(path)
            if path.phase == "backward" and backward:
                for line in seen.backward:
                    share = math.fsum(line.seconds) / backward
                    found.append(Row(self._users(line) or lines, "backward", "torch", False,
                                     tuple(share * seconds for seconds in path.seconds), False, True))
            elif path.leaf != WAITING or not in_all:
                found.append(Row(lines, path.phase, *self._what(path), tuple(path.seconds), False))
            else:
                for worker in busy:
                    share = math.fsum(worker.seconds) / in_all
                    found.append(Row((*lines, *self._users(worker)), "data", *self._what(worker),
                                     tuple(share * seconds for seconds in path.seconds), True))
        return found

    def _users(self, path: StackPath) -> tuple[Line, ...]:
        """The user's lines; a comprehension is a part of the function that it stands in."""
        found: list[Line] = []
        for line in (self._seen.lines[number] for number in path.lines):
            if line.package:
                continue
            if found and function_of(line) == function_of(found[-1]) and line.function != found[-1].function:
                found.pop()
            found.append(line)
        return tuple(found)

    def _what(self, path: StackPath) -> tuple[str, bool]:
        package = self._seen.lines[path.lines[-1]].package if path.lines else ""
        return (package, package != "torch") if package not in ("", "python") else (path.leaf, False)

    def share(self, rows: Iterable[Row]) -> Share:
        """The share of the step that these stacks have together."""
        by_stretch = [math.fsum(values) for values in zip(*(row.seconds for row in rows), strict=True)]
        return _share(by_stretch, self._seen.stretch_seconds)

    @cached_property
    def loop_functions(self) -> frozenset[Where]:
        """Functions that hold the loop: several of the step's phases run under them, not only those of a validation."""
        phases: dict[Where, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        # The stacks as they were: rows tell the backward pass elsewhere, at the lines that made it.
        for path in self._seen.in_steps:
            for where in {function_of(line) for line in self._users(path)}:
                phases[where][path.phase] += math.fsum(path.seconds)
        least = LEAST_PHASE * self.total
        return frozenset(
            where for where, seconds in phases.items() if sum(seconds[phase] > least for phase in STEP_PHASES) > 1
            and max(seconds[phase] for phase in LEARNING) > least)

    @cached_property
    def _shared(self) -> frozenset[Where]:
        """Functions that are called from more than one other: helpers, of which the caller tells more."""
        callers: dict[Where, set[Where]] = defaultdict(set)
        for row in self.rows:
            functions = [function_of(line) for line in row.lines]
            for caller, called in itertools.pairwise(functions):
                if called != caller:
                    callers[called].add(caller)
        return frozenset(where for where, found in callers.items() if len(found) > 1)

    @cached_property
    def causes(self) -> list[Cause]:
        """Places by what they cost, the most first."""
        outer: dict[Where, list[tuple[int, Row]]] = defaultdict(list)
        own: dict[tuple[str, int], list[tuple[int, Row]]] = defaultdict(list)
        """Lines of the loop itself, outside of any function that they call."""
        for row in self.rows:
            depth = next((n for n, line in enumerate(row.lines) if function_of(line) not in self.loop_functions), None)
            if depth is not None:
                outer[function_of(row.lines[depth])].append((depth, row))
            elif row.lines:
                own[row.lines[-1].file, row.lines[-1].line].append((len(row.lines) - 1, row))
        shared = self._shared
        found = [*(self._cause(_deepest(members, shared), False) for members in outer.values()),
                 *(self._cause(members, True) for members in own.values())]
        return sorted(found, key=lambda cause: -cause.seconds)

    def _cause(self, members: list[tuple[int, Row]], loops_own: bool) -> Cause:
        rows = [row for _, row in members]
        at: dict[int, float] = defaultdict(float)
        whats: dict[str, float] = defaultdict(float)
        for depth, row in members:
            at[row.lines[depth].line] += row.total
            whats[row.what] += row.total
        order = sorted(at, key=lambda number: -at[number])
        hottest = next(row.lines[depth] for depth, row in members if row.lines[depth].line == order[0])
        total = math.fsum(at.values())
        named: list[int] = []
        covered = 0.0
        for number in order:
            if named and covered >= HOT_LINES * total:
                break
            named.append(number)
            covered += at[number]
        depth, typical = max(members, key=lambda member: member[1].total)
        share = self.share(rows)
        phase = "forward" if typical.made_forward else typical.phase
        backward = math.fsum(row.total for row in rows if row.made_forward) / total
        in_worker = math.fsum(row.total for row in rows if row.in_worker) > total / 2
        own_loss = any(line.function in self._losses for line in typical.lines[:depth + 1])
        kind = "code" if own_loss else _kind(rows, phase, loops_own)
        return Cause(
            hottest.file, tuple(sorted(named)), "" if loops_own else function_of(hottest)[1], hottest.text,
            max(whats, key=lambda what: whats[what]), typical.lines[:depth], phase, kind, in_worker,
            share.value * self.step, backward, share, self._ceiling(share, in_worker),
        )

    def _ceiling(self, share: Share, in_worker: bool) -> float:
        """How many times faster a step could be at most without this share of it.

        What the training thread does itself goes away as a whole. A worker's work goes away from the time that a batch takes
        the workers, and the step then takes as long as the longer of both sides.
        """
        if not in_worker:
            return 1 / max(1e-3, 1 - min(share.high, 1.0))
        seen = self._seen
        busy = math.fsum(s for path in seen.in_workers if path.leaf != IDLE and path.phase == "data" for s in path.seconds)
        waiting = math.fsum(row.total for row in self.rows if row.in_worker)
        computing = (self.total - waiting) / max(1, seen.steps)
        if self._free_step is not None:
            computing = min(computing, self._free_step)
        batch = min(self.step, busy / max(1, self._workers) / max(1, seen.steps))
        gone = min(1.0, share.high * self.total / waiting) if waiting else 0.0
        return max(1.0, self.step / max(computing, (1 - gone) * batch, 1e-3 * self.step))

    def _loops_line(self, path: StackPath) -> Line | None:
        """The line of the loop itself that a stack goes through; None where no code of the user's is in it."""
        lines = self._users(path)
        here = next((n for n, line in enumerate(lines) if function_of(line) not in self.loop_functions), len(lines))
        return lines[max(0, here - 1)] if lines else None

    def _called(self, path: StackPath, line: Line) -> str:
        """The function of the user's own that a line of the loop calls, not through a library; or an empty string."""
        lines = [self._seen.lines[number] for number in path.lines]
        place = len(lines) - 1 - lines[::-1].index(line)
        after = lines[place + 1] if place + 1 < len(lines) else None
        return after.function if after is not None and not after.package else ""

    # -- a loader that is iterated anew for every batch

    @property
    def iterators_a_step(self) -> float:
        """Iterators of the step's loaders that the script makes in an ordinary step: none, unless it makes them for batches."""
        return max(0, self._seen.iterators - self._seen.turns) / self._seen.steps

    @property
    def pace(self) -> tuple[float, ...]:
        """Seconds a step, as the script makes it itself, in each stretch."""
        return tuple(len(self._seen.stretch_seconds) * seconds / self._seen.steps for seconds in self._seen.stretch_seconds)

    def fetching(self) -> tuple[Line | None, float]:
        """The line of the loop that spends most on batches, None where there is none; and the share that batches have."""
        at: dict[tuple[str, int], float] = defaultdict(float)
        lines: dict[tuple[str, int], Line] = {}
        for path in self._seen.in_steps:
            line = self._loops_line(path) if path.phase == "data" else None
            if line is not None:
                at[line.file, line.line] += math.fsum(path.seconds)
                lines[line.file, line.line] = line
        most = max(at, key=lambda place: at[place], default=None)
        return (lines[most], at[most] / self.total) if most is not None else (None, 0.0)

    # -- the run

    @property
    def outside_steps(self) -> float:
        """Share of the run that is no ordinary step: of a whole epoch where one was seen to turn, else of what was seen."""
        seen = self._seen
        if seen.turns and self._epoch_steps:
            epoch, other = self._epoch_steps * self.step, seen.other_seconds / seen.turns
        else:
            epoch, other = self.total, seen.other_seconds
        return other / (epoch + other) if epoch + other > 0 else 0.0

    @cached_property
    def between(self) -> list[Between]:
        """Where the time outside of steps goes, the most first."""
        groups: dict[tuple[str, int], list[StackPath]] = defaultdict(list)
        for path in self._seen.between:
            line = self._loops_line(path)
            if line is not None:
                groups[line.file, line.line].append(path)
        total = math.fsum(math.fsum(path.seconds) for path in self._seen.between)
        found = []
        for (file, number), paths in groups.items():
            seconds = math.fsum(math.fsum(path.seconds) for path in paths)
            line = next(one for path in paths for one in self._users(path) if (one.file, one.line) == (file, number))
            turn = math.fsum(math.fsum(p.seconds) for p in paths if p.phase == "data") > seconds / 2
            what = "turn of the epoch" if turn else self._what(max(paths, key=lambda path: math.fsum(path.seconds)))[0]
            called: dict[str, float] = defaultdict(float)
            for path in paths:
                called[self._called(path, line)] += math.fsum(path.seconds)
            most = max(called, key=lambda name: called[name])
            if most and called[most] > seconds / 2:
                what = most
            found.append(Between(line, what, self.outside_steps * seconds / total if total else 0.0))
        return sorted(found, key=lambda one: -one.share)

    @property
    def turn_seconds(self) -> float | None:
        """Seconds that the turn of an epoch takes beyond its steps; None where none was seen."""
        return self._seen.other_seconds / self._seen.turns if self._seen.turns else None

    @property
    def epoch_steps(self) -> float | None:
        """Steps in an epoch; None where that is not known."""
        return self._epoch_steps


def function_of(line: Line) -> Where:
    """The function that a line belongs to: comprehensions and lambdas are parts of the function that they stand in."""
    name = line.function
    while name.rpartition(".")[2] in COMPREHENSIONS:
        name = name.rpartition(".")[0]
    return line.file, name or "<module>"


def _deepest(members: list[tuple[int, Row]], shared: Collection[Where]) -> list[tuple[int, Row]]:
    """The same stacks at the innermost function that still has most of their time and is not ``shared``."""
    while True:
        total = math.fsum(row.total for _, row in members)
        children: dict[Where, float] = defaultdict(float)
        inner = []
        for depth, row in members:
            here = function_of(row.lines[depth])
            deeper = next((n for n in range(depth + 1, len(row.lines)) if function_of(row.lines[n]) != here), None)
            inner.append(deeper)
            if deeper is not None:
                children[function_of(row.lines[deeper])] += row.total
        best = max(children, key=lambda where: children[where], default=None)
        if best is None or best in shared or children[best] < ONE_CHILD * total:
            return members
        members = [(deeper, row) for deeper, (_, row) in zip(inner, members, strict=True)
                   if deeper is not None and function_of(row.lines[deeper]) == best]


def _kind(rows: Sequence[Row], phase: str, loops_own: bool) -> str:
    if phase == "data":
        return "loader" if loops_own else "code"
    if phase == "other":
        return "code"
    own = math.fsum(row.total for row in rows if row.library)
    return "code" if phase == "forward" and not loops_own and own >= CODE * math.fsum(r.total for r in rows) else "model"


def _share(part: Sequence[float], whole: Sequence[float]) -> Share:
    """A share from stretches: the ratio of sums, its interval by the spread of the stretches around it."""
    count, total = len(whole), math.fsum(whole)
    if not count or total <= 0:
        return Share(0.0, 0.0, 1.0)
    value = min(1.0, math.fsum(part) / total)
    if count < 2:
        return Share(value, 0.0, 1.0)
    error = math.sqrt(math.fsum((p - value * w) ** 2 for p, w in zip(part, whole, strict=True)) * count / (count - 1)) / total
    half = stats.t_critical(0.05, count - 1) * error
    return Share(value, max(0.0, value - half), min(1.0, value + half))


def of(loop: Loop | None, seen: Lines | None, free_step: float | None = None) -> TimeByLine | None:
    """What the stacks of a loop say; None where there are none of an ordinary step."""
    if seen is None or not seen.steps or not seen.in_steps:
        return None
    return TimeByLine(loop, seen, free_step)
