"""What a command is run as: the command line itself, and the environment that brings perfdoc into its processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import perfdoc
from perfdoc.core.errors import PerfdocError
from perfdoc.core.registry import packages


def python_command(script: Sequence[str]) -> list[str]:
    """``train.py ...`` as ``python train.py ...``: this interpreter if it has torch, else the ``python`` on PATH."""
    if importlib.util.find_spec("torch") is not None:
        return [sys.executable, *script]
    return [shutil.which("python") or shutil.which("python3") or sys.executable, *script]


def resolve(arguments: Sequence[str], dashed: bool) -> list[str]:
    """The command to run. Raises PerfdocError where there is no such script or program."""
    if not arguments:
        raise PerfdocError("nothing to scan. Say `perfdoc scan train.py [its arguments]` or `perfdoc scan -- command ...`.")
    first = arguments[0]
    if dashed:
        if shutil.which(first) is None:
            raise PerfdocError(f"no such command: {first}")
        if os.path.basename(first).startswith("python") and len(arguments) > 1 and arguments[1].endswith(".py"):
            _check_script(arguments[1])
        return list(arguments)
    _check_script(first)
    return python_command(arguments)


def _check_script(path: str) -> None:
    if os.path.isdir(path):
        raise PerfdocError(f"{path} is a folder. Name the training script, or use `-- python -m package`.")
    if not os.path.exists(path):
        raise PerfdocError(f"no such script: {path} (looked in {os.getcwd()})")


def _places() -> str:
    found = [f"perfdoc={Path(perfdoc.__file__).parent}"]
    for name in packages():
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise PerfdocError(f"the probe package {name!r} is announced but cannot be found. Reinstall it.")
        found.append(f"{name}={next(iter(spec.submodule_search_locations))}")
    return os.pathsep.join(found)


def environment(folder: Path, python_path: Sequence[str] = (), trackers: bool = False) -> dict[str, str]:
    """The user's environment, with perfdoc in it, and trackers off unless they are to be on (``trackers``).

    ``python_path`` comes before the user's own entries.
    """
    env = dict(os.environ)
    # perfdoc's own sitecustomize must be the first: it hands on to the user's, theirs knows of none.
    bootstrap = str(Path(perfdoc.__file__).parent / "inject" / "bootstrap")
    env["PYTHONPATH"] = os.pathsep.join(p for p in (bootstrap, *python_path, env.get("PYTHONPATH")) if p)
    env["PERFDOC_RUN_DIR"] = str(folder)
    env["PERFDOC_PACKAGES"] = _places()
    if not trackers:
        kept = folder / "trackers"
        env.update(
            WANDB_MODE="disabled", WANDB_DIR=str(kept), WANDB_SILENT="true",
            MLFLOW_TRACKING_URI=f"file://{kept / 'mlflow'}",
            COMET_START_MODE="offline", COMET_OFFLINE_DIRECTORY=str(kept / "comet"),
            NEPTUNE_MODE="debug", CLEARML_OFFLINE_MODE="1",
        )
    env.pop("PERFDOC_WORKER", None)
    return env


def environment_for_helpers() -> dict[str, str]:
    """The user's environment for processes of perfdoc's own: it can be imported there, and watches nothing."""
    env = dict(os.environ)
    bootstrap = str(Path(perfdoc.__file__).parent / "inject" / "bootstrap")
    env["PYTHONPATH"] = os.pathsep.join(p for p in (bootstrap, env.get("PYTHONPATH")) if p)
    env["PERFDOC_PACKAGES"] = _places()
    env.pop("PERFDOC_RUN_DIR", None)
    env["OMP_NUM_THREADS"] = "1"
    return env
