"""What happens in the user's interpreter before their script starts."""

from __future__ import annotations

import json
import os
import sys
import traceback
from types import ModuleType, TracebackType
from typing import Any

from perfdoc.core.user_code import is_ours, is_standard, is_users, own_name
from perfdoc.inject import guard
from perfdoc.inject.guard import trackers
from perfdoc.inject.guard.overlay import Overlay
from perfdoc.inject.system import import_hooks, script_options
from perfdoc.inject.system.import_hooks import when_imported
from perfdoc.inject.system.recorder import Recorder

NEVER_OURS = (ImportError, SyntaxError, MemoryError, RecursionError, KeyboardInterrupt)
"""Errors that come up below any frame, and say nothing of whose it is."""


def guard_only(run_dir: str) -> None:
    """Guard the files of a DataLoader worker that was spawned, and sample its lines where they are asked for."""
    with open(os.path.join(run_dir, "settings.json"), encoding="utf-8") as f:
        settings: dict[str, Any] = json.load(f)
    if settings["guard"]:
        guard.install(Recorder(run_dir, int(settings["lap"])), settings["protect"])
    watch = bool(settings.get("watch"))
    if watch or (settings.get("experiment") and not settings.get("errand")):
        from perfdoc.inject.lines import worker_lines

        worker_lines.begin(run_dir, int(settings["lap"]), watch)


def start(run_dir: str) -> None:
    """Wait for torch to be imported, then watch. Called by ``sitecustomize``; nothing else of the process changes."""
    with open(os.path.join(run_dir, "settings.json"), encoding="utf-8") as f:
        settings: dict[str, Any] = json.load(f)
    recorder = Recorder(run_dir, int(settings["lap"]))
    recorder.write("entered", pid=os.getpid(), ppid=os.getppid(), argv=sys.orig_argv, python=sys.version.split()[0])
    import_hooks.failed = lambda error: recorder.write("hook_failed", error=error)
    files: Overlay | None = None
    if settings["guard"]:
        files = guard.install(recorder, settings["protect"])
        trackers.install(recorder)
    watched: list[ModuleType] = []

    def torch_imported(module: ModuleType) -> None:
        if watched:  # reloaded: what was wrapped still is
            return
        watched.append(module)
        try:
            from perfdoc.capture.settings import Settings
            from perfdoc.core.typed_json import from_json
            from perfdoc.inject.session import Session

            recorder.write(
                "process",
                pid=os.getpid(),
                ppid=os.getppid(),
                argv=sys.argv,
                python=sys.version.split()[0],
                executable=sys.executable,
                torch=getattr(module, "__version__", "?"),
                cuda=getattr(getattr(module, "version", None), "cuda", None),
                rank=os.environ.get("RANK"),
            )
            Session(recorder, from_json(Settings, settings)).install()
            recorder.write("seen", what="torch")
        except Exception:  # a torch that is too old or too new for the wrappers: the script runs, the scan says why
            recorder.write("inject_failed", error=traceback.format_exc())

    when_imported("torch", torch_imported)
    script_options.install(recorder)
    _keep_failure(recorder, files)


def _keep_failure(recorder: Recorder, files: Overlay | None) -> None:
    """Record the user's own uncaught exception beside showing it as Python always does."""
    show = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        inside = "" if isinstance(error, NEVER_OURS) else _inside(trace)
        if isinstance(error, OSError) and os.path.join("guard", "") in inside:
            inside = ""  # what the system says of a file: whose, is told by ``guarded``
        trace = error.__traceback__ = _without_ours(trace)
        recorder.write(
            "failure",
            type=kind.__name__,
            message=str(error)[:2000],
            site=_innermost(trace),
            guarded=isinstance(error, OSError) and files is not None and files.about(error.filename),
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
