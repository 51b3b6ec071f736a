"""Lines of the user's code that a capture knows calls of the step by, as people read them."""

from __future__ import annotations

import os
from typing import Any

from perfdoc.capture.document import Capture


def shown(file: str, line: int, directory: str) -> str:
    """``file:line``, relative to the command's working directory where it lies inside."""
    path = os.path.relpath(file, directory) if directory and os.path.isabs(file) else file
    return f"{file if path.startswith('..') else path}:{line}"


def call(capture: Capture, what: str) -> str:
    """The innermost line of the user's code that makes the calls of that kind (forward, backward, step); may be empty."""
    for frames, _ in _trail(capture, what):
        if frames:
            return shown(frames[0][0], frames[0][1], capture.run.directory)
    return ""


def optimizer_made(capture: Capture) -> str:
    """The line of the user's code that makes the optimizer; may be empty."""
    return next((shown(made[0], made[1], capture.run.directory) for _, made in _trail(capture, "step") if made), "")


def _trail(capture: Capture, what: str) -> list[tuple[list[list[Any]], list[Any] | None]]:
    places = capture.loop.places if capture.loop is not None else None
    return [(one.frames, one.made) for one in places.trail if one.what == what] if places is not None else []
