"""Where forward pass and loss of a step stand in the text: what autocast is wrapped around."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import libcst as cst

from perfdoc.patch.calls_of_a_step import Call, Frame, dotted_name, first_shown
from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.source import SourceFile, Suite, last_name


@dataclass(frozen=True)
class Region:
    """Statements of one suite: from the first forward pass to the last before a backward."""

    source: SourceFile
    suite: Suite
    first: int
    last: int
    backward: int
    """Index of the statement that holds backward."""
    fronts: tuple[tuple[Frame, ...], ...] = ()
    """Of every forward pass, the user's frames, innermost first, up to the line in the suite."""


def regions_of(calls: Iterable[Call], file: Callable[[str], SourceFile]) -> list[Region]:
    """Forward and loss of every backward of a step; ``file`` gives the parsed file of a path.

    Raises CannotEdit where they are not statements of one suite.
    """
    found: list[Region] = []
    forwards: list[Call] = []
    for call in calls:
        if call.what == "forward":
            forwards.append(call)
        elif call.what == "backward":
            if forwards:
                region = _region(forwards, call, file)
                if not any(_same(region, other) for other in found):
                    found.append(region)
            forwards = []
    if not found:
        raise CannotEdit("no forward pass followed by backward was seen in the user's code", "")
    return found


def _region(forwards: list[Call], backward: Call, file_at: Callable[[str], SourceFile]) -> Region:
    places = []
    for forward in forwards:
        pair = _common(forward, backward)
        if pair is None:
            raise CannotEdit("forward and backward are called from different functions", "", first_shown(backward))
        places.append(pair)
    file = places[0][1].file
    if any(back.file != file or back.line != places[0][1].line for _, back in places):
        raise CannotEdit("forward passes of one backward are called from different functions", "", first_shown(backward))
    source = file_at(file)
    ends = source.suites(places[0][1].line)
    best: Region | None = None
    for suite, last in ends:
        firsts = []
        for front, _ in places:
            at = next((place for other, place in source.suites(front.line) if other is suite), None)
            if at is None:
                break
            firsts.append(at)
        else:
            best = Region(source, suite, min(firsts), last - 1, last)
    if best is None or best.first > best.backward:
        raise CannotEdit("backward stands before forward in the text", "", first_shown(backward))
    if best.first == best.backward:
        raise CannotEdit("forward and backward are one statement", "", first_shown(backward))
    last = _last_of_loss(best)
    while last > best.first and _is_zeroing(best.suite.body[last]):
        last -= 1
    fronts = tuple(
        forward.frames[: forward.frames.index(front) + 1] for forward, (front, _) in zip(forwards, places, strict=True)
    )
    return Region(source, best.suite, best.first, last, best.backward, fronts)


def _same(one: Region, other: Region) -> bool:
    return one.suite is other.suite and (one.first, one.last) == (other.first, other.last)


def _common(one: Call, other: Call) -> tuple[Frame, Frame] | None:
    """The innermost function that both calls were made from, as the frame of each."""
    for frame in one.frames:
        for second in other.frames:
            if (frame.file, frame.function, frame.first) == (second.file, second.function, second.first):
                return frame, second
    return None


def _last_of_loss(region: Region) -> int:
    """Index of the last statement that assigns what backward starts from; the last one before backward where none is seen."""
    source = region.source
    calls = [c for c in source.all(cst.Call, region.suite.body[region.backward]) if last_name(dotted_name(c)) == "backward"]
    if not calls:
        return region.last
    first = calls[0]
    roots = [cst.ensure_type(first.func, cst.Attribute).value, *(a.value for a in first.args)]
    names = {source.code(root) for root in roots if isinstance(root, cst.Name | cst.Attribute)}
    for place in range(region.last, region.first - 1, -1):
        statement = region.suite.body[place]
        targets = [t.target for a in source.all(cst.Assign, statement) for t in a.targets]
        targets += [a.target for a in source.all(cst.AugAssign, statement)]
        targets += [a.target for a in source.all(cst.AnnAssign, statement)]
        parts = [e.value for t in targets if isinstance(t, cst.Tuple | cst.List) for e in t.elements]
        if names & {source.code(target) for target in [*targets, *parts]}:
            return place
    return region.last


def _is_zeroing(statement: cst.CSTNode) -> bool:
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    only = statement.body[0]
    return isinstance(only, cst.Expr) and isinstance(only.value, cst.Call) and last_name(dotted_name(only.value)) == "zero_grad"
