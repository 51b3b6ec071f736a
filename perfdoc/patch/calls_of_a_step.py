"""Calls that every step makes, as the scan saw them, and where they stand in the text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import libcst as cst

from perfdoc.patch.source import SourceFile, dotted, last_name


@dataclass(frozen=True)
class Frame:
    """A line of the user's code on the stack of a call."""

    file: str
    line: int
    function: str
    first: int
    """First line of the function, its decorators included."""
    span: tuple[int, int, int, int] | None = None
    """Line, column, end line and end column of the call (in UTF-8 bytes); None before Python 3.11."""


@dataclass(frozen=True)
class Call:
    """A call that every step makes: ``forward``, ``backward`` or ``step``; frames innermost first."""

    what: str
    frames: tuple[Frame, ...]
    fields: Mapping[str, Any]


def dotted_name(call: cst.Call) -> str:
    """The dotted name that is called; empty where it is no name."""
    return dotted(call.func)


def frame_of(entry: list[Any]) -> Frame:
    """A frame of the capture: file, line, function, first line of the function, and the span where it is known."""
    span = entry[4] if len(entry) > 4 else None
    file, line, function, first = entry[:4]
    return Frame(file, line, function, first, tuple(span) if span else None)


def model_call(source: SourceFile, frame: Frame, fields: Mapping[str, Any]) -> cst.Call | None:
    """The call that the frame is at; where the interpreter does not tell, the only one there with so many arguments."""
    calls = [c for c in source.all(cst.Call) if source.covers(c, frame.line)]
    if frame.span is not None:
        exact = [c for c in calls if source.span(c) == frame.span]
        if exact:
            return exact[0]
    args, names = len(fields.get("args", ())), set(fields.get("kwargs", ()))

    def fits(call: cst.Call) -> bool:
        plain = [a for a in call.args if a.keyword is None and not a.star]
        named = {a.keyword.value for a in call.args if a.keyword is not None}
        starred = any(a.star for a in call.args)
        return starred or (len(plain) == args and named == names)

    found = [c for c in calls if fits(c) and not _is_builtin(c)]
    return found[0] if len(found) == 1 else None


BUILTINS = frozenset({"print", "len", "float", "int", "range", "enumerate", "zip", "tuple", "list", "dict"})
TENSOR_METHODS = frozenset({
    "to", "cuda", "cpu", "float", "half", "mean", "sum", "view", "reshape", "item", "backward", "squeeze", "unsqueeze",
    "detach", "flatten", "permute", "transpose", "long", "bfloat16", "contiguous", "size", "pow", "zero_grad", "step",
})


def _is_builtin(call: cst.Call) -> bool:
    name = dotted_name(call)
    return name in BUILTINS or ("." in name and last_name(name) in TENSOR_METHODS) or not name or _is_functional(name)


def _is_functional(name: str) -> bool:
    return any(part in ("F", "functional", "torch") for part in name.split(".")[:-1])


def first_shown(call: Call) -> str:
    """``file:line`` of the innermost frame; empty where there is none."""
    return shown(call.frames[0]) if call.frames else ""


def shown(frame: Frame) -> str:
    """``file:line`` of a frame."""
    return shown_at(frame.file, frame.line)


def shown_at(file: str, line: int) -> str:
    """``file:line``, relative to the working folder where the file lies inside."""
    path = os.path.relpath(file)
    return f"{file if path.startswith('..') else path}:{line}"
