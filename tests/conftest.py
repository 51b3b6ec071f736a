"""Running perfdoc as a user does: the command line, on a copy of a script in a folder of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Several tests at a time share the cores: OpenMP threads that spin while they wait would starve the other ones'.
QUICK_START = str(Path(__file__).parent / "quick_start")
SHARING = {
    "GOMP_SPINCOUNT": "0", "PYTHONPATH": os.pathsep.join(filter(None, [QUICK_START, os.environ.get("PYTHONPATH")])),
} if "PYTEST_XDIST_WORKER" in os.environ else {}
# As in an activated environment: "python" in a command is the one that has torch.
ACTIVATED = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
SCRIPTS = Path(__file__).parent / "scripts"
PACE = re.compile(r"\d (s|ms|µs) a step")
"""What every first screen says of a step, on a fast machine and on a slow one."""


TORCH = importlib.util.find_spec("torch") is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without torch (another Python than the one that trains) only the files marked ``any_python`` can be imported."""
    if TORCH or not collection_path.name.startswith("test_"):
        return None
    return "pytestmark = pytest.mark.any_python" not in collection_path.read_text(encoding="utf-8") or None


def needs(what: str, missing: str) -> None:
    """Skip a test that needs ``what`` (``turbojpeg``, ``gcc``) where it is ``missing``, for the reason given.

    A machine that is meant to have it names it in PERFDOC_TESTS_REQUIRE, as CI does: there the test fails.
    """
    if missing and what in os.environ.get("PERFDOC_TESTS_REQUIRE", "").split():
        pytest.fail(f"{what} is required here, but {missing}")
    if missing:
        pytest.skip(f"needs {what}: {missing}")


def ready_decoder(slug: str) -> Any:
    """A picture decoder, ready to decode; the test is skipped where its library is not installed."""
    from perfdoc.core.decoder import Decoder
    from perfdoc.core.registry import decoder_packages, discover, packages

    found = next(d for d in discover(Decoder, decoder_packages(packages())) if d.slug == slug)  # type: ignore[type-abstract]
    try:
        found.load(single_thread=False)
    except (ImportError, OSError) as error:
        needs(slug, str(error))
    return found


@dataclass
class Scanned:
    """What came of one scan."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def found(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def run_folder(self) -> Path:
        return max((self.folder / ".perfdoc" / "runs").iterdir())

    @property
    def capture(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "capture.json").read_text())

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [line for file in self.run_folder.glob("events-*.jsonl") for line in file.read_text().splitlines()]
        return [event for event in map(json.loads, lines) if event["e"] == kind]


def perfdoc(*arguments: str, cwd: Path, timeout: float = 180, **env: str) -> Scanned:
    """Run the command line; never raises on a failing exit code."""
    ran = subprocess.run(
        [sys.executable, "-m", "perfdoc", *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, **ACTIVATED, **SHARING, **env}, stdin=subprocess.DEVNULL, check=False,
    )
    return Scanned(ran.returncode, ran.stdout, ran.stderr, cwd)


@pytest.fixture
def scan(tmp_path: Path) -> Callable[..., Scanned]:
    """``scan("plain.py", "--epochs", "3")`` scans a copy of a script from tests/scripts; ``text=`` a script written here."""

    def run(
        name: str, *arguments: str, budget: float = 8, text: str | None = None, options: tuple[str, ...] = ("--json",),
        **env: str,
    ) -> Scanned:
        if text is not None:
            (tmp_path / name).write_text(text)
        else:
            shutil.copy(SCRIPTS / name, tmp_path / name)
        return perfdoc("scan", "--budget", str(budget), *options, name, *arguments, cwd=tmp_path, **env)

    return run


def left_behind(folder: Path) -> list[str]:
    """Command lines of processes that still carry a run of ``folder`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"PERFDOC_RUN_DIR={folder}".encode() in environ and command:
                found.append(command.decode(errors="replace"))
    return found
