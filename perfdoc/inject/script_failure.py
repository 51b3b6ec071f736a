"""The script's own uncaught exception: recorded beside showing it, with what tells whether it may be perfdoc's fault."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Any

from perfdoc.core.user_code import GUARD, is_ours, is_standard, is_users, own_name
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.guard.real_files import exists
from perfdoc.inject.system.recorder import Recorder

NEVER_OURS = (ImportError, SyntaxError, MemoryError, RecursionError, KeyboardInterrupt)
"""Errors that come up below any frame, and say nothing of whose it is."""


def keep(recorder: Recorder, files: Overlay | None) -> None:
    """Record the user's own uncaught exception beside showing it as Python always does."""
    show = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        inside = "" if isinstance(error, NEVER_OURS) else _inside(trace)
        if isinstance(error, OSError) and inside.startswith(GUARD):
            inside = ""  # what the system says of a file: whose, is told by ``guarded``
        trace = error.__traceback__ = _without_ours(trace)
        recorder.write(
            "failure",
            type=kind.__name__,
            message=str(error)[:2000],
            site=_innermost(trace),
            guarded=isinstance(error, OSError) and files is not None and _is_kept_apart(files, error.filename),
            inside=inside,
            traceback="".join(traceback.format_exception(kind, error, trace))[-8000:],
        )
        show(kind, error, trace)

    sys.excepthook = excepthook


def _inside(trace: TracebackType | None) -> str:
    """``file:line`` of perfdoc's own frame that raised it, or that the standard library raised it below.

    Empty where the user's code or a library stands below perfdoc's frames: those only passed a call on.
    """
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_ours(file):
            place = f"{own_name(file)}:{trace.tb_lineno}"
        elif not is_standard(file):
            place = ""
        trace = trace.tb_next
    return place


def _is_kept_apart(files: Overlay, file: Any) -> bool:
    """Whether ``file``, of an error of the script's, or the folder that it lies in, is one that the overlay stands for."""
    if not isinstance(file, str | bytes | os.PathLike) or files.untouched():
        return False
    try:
        path = files.view(file)
    except OSError:
        return True
    parents = (path, os.path.dirname(path), os.path.dirname(os.path.dirname(path)))
    return any(files.hidden(place) or (exists(files.upper(place)) and not exists(place)) for place in parents)


def _innermost(trace: TracebackType | None) -> str:
    """``file:line`` of the user's innermost frame; empty where there is none."""
    site = ""
    while trace is not None:
        if is_users(trace.tb_frame.f_code.co_filename):
            site = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return site


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback as it would be without perfdoc's wrappers between the user's frames."""
    frames = []
    while trace is not None:
        if not is_ours(trace.tb_frame.f_code.co_filename):
            frames.append(trace)
        trace = trace.tb_next
    shown: TracebackType | None = None
    for frame in reversed(frames):
        shown = TracebackType(shown, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return shown
