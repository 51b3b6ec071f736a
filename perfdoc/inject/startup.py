"""What happens in the user's interpreter before their script starts."""

from __future__ import annotations

import json
import os
import sys
import traceback
from types import ModuleType
from typing import Any

from perfdoc.inject import guard, script_failure
from perfdoc.inject.guard import trackers
from perfdoc.inject.system import import_hooks, script_options
from perfdoc.inject.system.import_hooks import when_imported
from perfdoc.inject.system.recorder import Recorder


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
    files = guard.install(recorder, settings["protect"]) if settings["guard"] else None
    if settings["guard"]:
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
    script_failure.keep(recorder, files)
