"""Where in the user's code a step's calls are made: what a patch needs to know. Noted while the loop is observed."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from types import FrameType
from typing import Any

import torch

from perfdoc.capture import records
from perfdoc.core.user_code import is_users

MOST = 120
"""Calls that are noted: several cycles of any ordinary step."""
MOST_FILES = 500
NOT_FRAMEWORKS = frozenset({"torch", "perfdoc", "perfdoc_probes", "contextlib", "functools", "__main__"})


class CallSites:
    """The calls of observed steps in their order, with the lines of the user's code that they come from."""

    def __init__(self) -> None:
        self.trail: list[records.TrailCall] = []
        self.packages: set[str] = set()
        """Libraries that stand between the user's code and the calls (``lightning``, ``transformers``)."""
        self.zeroed: set[tuple[str, int]] = set()
        """Places of ``zero_grad(set_to_none=False)``."""
        self._users: dict[str, bool] = {}

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An outermost module is called in training."""
        if len(self.trail) < MOST and torch.is_grad_enabled():
            self._note("forward", args=[_dim(a) for a in args], kwargs={name: _dim(a) for name, a in kwargs.items()})

    def backward(self) -> None:
        """Backward begins."""
        if len(self.trail) < MOST:
            self._note("backward")

    def step(self, optimizer: Any) -> None:
        """An optimizer was called."""
        if len(self.trail) < MOST:
            self._note("step", optimizer=type(optimizer).__name__, made=optimizer.__dict__.get("_perfdoc_made_at"))

    def zero_grad(self) -> None:
        """Gradients are set to zero instead of to None."""
        frames = self._frames(sys._getframe(2))
        if frames:
            self.zeroed.add((frames[0][0], frames[0][1]))

    def made_here(self) -> list[Any] | None:
        """``[file, line]`` of the innermost line of the user's code above the caller; None where there is none."""
        frames = self._frames(sys._getframe(2), most=1)
        return frames[0][:2] if frames else None

    def record(self) -> records.CallSites:
        """What is written into the capture's loop."""
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        main = os.path.abspath(main) if main else None
        return records.CallSites(
            main=main,
            packages=sorted(self.packages),
            files=user_files(),
            digests={file: _digest(file) for file in {f[0] for call in self.trail for f in call.frames} | {main or ""}
                     if os.path.isfile(file)},
            zero_grad=sorted(self.zeroed),
            trail=self.trail,
        )

    def _note(self, what: str, **fields: Any) -> None:
        self.trail.append(records.TrailCall(what, self._frames(sys._getframe(3)), **fields))

    def _frames(self, frame: FrameType | None, most: int = 30) -> list[list[Any]]:
        """``[file, line, function, its first line, span of the call]`` of the user's frames, innermost first."""
        found: list[list[Any]] = []
        while frame is not None and len(found) < most:
            code = frame.f_code
            users = self._users.get(code.co_filename)
            if users is None:
                users = self._users[code.co_filename] = is_users(code.co_filename)
            if users:
                found.append([os.path.abspath(code.co_filename), frame.f_lineno, code.co_name, code.co_firstlineno,
                              _span(frame)])
            else:
                package = str(frame.f_globals.get("__name__", "")).split(".")[0]
                if package and package not in NOT_FRAMEWORKS:
                    self.packages.add(package)
            frame = frame.f_back
        return found


def _span(frame: FrameType) -> list[int] | None:
    """``[line, column, end line, end column]`` of the expression that the frame is at; None before Python 3.11."""
    positions = getattr(frame.f_code, "co_positions", None)
    if positions is None:
        return None
    at = next(itertools.islice(positions(), frame.f_lasti // 2, None), None)
    if at is None or None in at:
        return None
    line, end_line, column, end_column = at
    return [line, column, end_line, end_column]


def _digest(file: str) -> str:
    with open(file, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def user_files() -> list[str]:
    """Source files of the user's modules that are imported."""
    found = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    return sorted(os.path.abspath(file) for file in found if file.endswith(".py") and is_users(file))[:MOST_FILES]


def _dim(value: Any) -> int:
    """Dimensions of a floating-point tensor; -1 for anything else."""
    return value.dim() if isinstance(value, torch.Tensor) and value.is_floating_point() else -1
