"""Scans that something happens to, and what is left of them: shared by ``faults.py`` and ``generated_loops.py``.

A trial is one folder with a script and a few of the user's files, one scan (or two) in it, and a look at everything
afterwards: the files, the processes, the blocks that were measured, the words that were said.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import perfdoc
from perfdoc.commands import report
from perfdoc.core.errors import PerfdocError

PERFDOC = Path(perfdoc.__file__).parent
LEFT_AFTER = 30.0
"""Seconds after the parent's end until which the script and its workers may take to end too."""
FILES = {"model.pt": b"weeks of training", "log.csv": b"0,1.5\n", "data/kept.txt": b"kept"}
"""What the user has in the folder already."""


@dataclass
class Scan:
    """One ``perfdoc scan`` that was started."""

    process: subprocess.Popen[bytes]
    output: Path
    """Its base folder, ``.perfdoc`` where nothing else was asked."""
    place: Path
    """Where its own streams go."""
    known: set[Path]
    started: float = field(default_factory=time.monotonic)
    _run: Path | None = None

    @property
    def run(self) -> Path | None:
        """The run's folder; None before there is one."""
        if self._run is None:
            self._run = next(iter(sorted(folder for folder in self.output.glob("runs/*") if folder not in self.known)), None)
        return self._run

    @property
    def out(self) -> str:
        return self.place.with_suffix(".out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.place.with_suffix(".err").read_text(errors="replace")

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind that stand in the run's files now."""
        found = []
        for file in sorted(self.run.glob("events-*.jsonl")) if self.run else []:
            with contextlib.suppress(OSError):
                for line in file.read_bytes().splitlines():
                    with contextlib.suppress(ValueError):
                        event = json.loads(line)
                        if event.get("e") == kind:
                            found.append(event)
        return found

    def processes(self) -> list[psutil.Process]:
        """Processes that carry the run in their environment."""
        return list(processes_of(self.run)) if self.run else []

    def script(self) -> psutil.Process | None:
        """The user's script, while it runs."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.ppid() == self.process.pid:
                    return process
        return None

    def workers(self) -> list[psutil.Process]:
        """DataLoader workers of the script."""
        script = self.script()
        with contextlib.suppress(psutil.Error):
            return [p for p in script.children() if p.status() != psutil.STATUS_ZOMBIE] if script else []
        return []


@dataclass
class Trial:
    """One folder, what was done in it, and what was found afterwards."""

    folder: Path
    rng: random.Random
    budget: float
    limit: float
    """Seconds after the fault after which a scan is taken to hang."""
    slow: float = 0.0
    """Seconds of whatever is slow in it."""
    scans: list[Scan] = field(default_factory=list)
    fault_at: float | None = None
    """When it happened; the start of the scan where nothing happens at one moment."""
    codes: tuple[int, ...] = (0,)
    """Exit codes that are right."""
    words: tuple[str, ...] = ()
    """Of which one must be said."""
    early_codes: tuple[int, ...] = ()
    """Exit codes that are right besides where no change had been switched on yet: then the script may be named."""
    never_its_own: bool = False
    """Whether the script must not be named at all: what happens to it happens in perfdoc's own files."""
    said: list[str] = field(default_factory=list)
    """What else is worth telling."""
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What is taken back after the trial."""
    hung: bool = False
    left: list[str] = field(default_factory=list)
    """Processes that had to be ended afterwards."""
    seconds: float = 0.0
    """From the fault, or the start where there is no such moment, until nothing of it ran any more."""
    lost: int = 0
    """Blocks that were written as events and that no report shows."""
    changed: list[str] = field(default_factory=list)
    """What is different in the user's folder."""
    complaints: list[str] = field(default_factory=list)
    """Everything that is not as it must be, in words."""

    @property
    def work(self) -> Path:
        """The user's folder."""
        return self.folder / "work"

    def write(self, script: str) -> None:
        """Make the user's folder: the script, and what they have there already."""
        (self.work / "data").mkdir(parents=True)
        for name, content in FILES.items():
            (self.work / name).write_bytes(content)
        (self.work / "train.py").write_text(script)

    def start(
        self, *options: str, output: Path | None = None, before: Callable[[], None] | None = None, terminal: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Scan:
        """Start a scan; ``before`` runs in the new process before perfdoc; ``terminal``: where its streams go."""
        place = self.folder / f"scan-{len(self.scans)}"
        base = output or self.work / ".perfdoc"
        more = ["--output", str(output)] if output else []
        known = set(base.glob("runs/*"))
        command = [sys.executable, "-m", "perfdoc", "scan", "--budget", str(self.budget), *more, *options, "train.py"]
        with place.with_suffix(".out").open("wb") as out, place.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                command, cwd=self.work, start_new_session=True, preexec_fn=lambda: _fresh(before),
                env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=out if terminal is None else terminal, stderr=err if terminal is None else terminal,
            )
        self.scans.append(Scan(process, base, place, known))
        return self.scans[-1]

    def wait(self) -> None:
        """Wait for the ends of all scans, then for those of their processes; end what is left."""
        if not self.scans:
            return
        begin = self.fault_at or min(scan.started for scan in self.scans)
        for scan in self.scans:
            try:
                scan.process.wait(max(1.0, begin + self.limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.hung = True
                self._end(scan)
        by = time.monotonic() + LEFT_AFTER
        while any(scan.processes() for scan in self.scans) and time.monotonic() < by:
            time.sleep(0.1)
        self.seconds = time.monotonic() - begin
        for scan in self.scans:
            self.left += [f"{p.pid} {' '.join(p.cmdline())[:60]}" for p in _alive(scan.processes())]
            self._end(scan)

    def _end(self, scan: Scan) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(scan.process.pid, signal.SIGKILL)
        for process in scan.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            scan.process.wait(5)

    def look(self) -> None:
        """See what came of it, once everything has ended."""
        self.changed, self.lost = self._changes(), sum(map(lost, self.scans))
        found = [*(["hung"] if self.hung else []), *(f"left running: {line}" for line in self.left)]
        found += [f"tree: {line}" for line in self.changed]
        found += [f"{self.lost} blocks lost"] if self.lost else []
        for scan in self.scans:
            code, early = scan.process.returncode, not scan.events("switch")
            right = (*self.codes, *(self.early_codes if early else ()))
            if code not in right and not self.hung:
                found.append(f"exit code {code}, not {' or '.join(map(str, right))}: {reason(scan)[:150]}")
            said = scan.out + scan.err + reason(scan)
            if self.words and not any(word in said for word in self.words):
                found.append(f"not said: {' or '.join(self.words)}")
            if (self.never_its_own or not early) and "failed by itself" in said:
                found.append(f"blames the script: {reason(scan)[:150]}")
            if f'File "{PERFDOC}' in scan.err:
                found.append(f"a traceback of perfdoc: {scan.err.strip().splitlines()[-1][:150]}")
        self.complaints = found

    def _changes(self) -> list[str]:
        now = {str(file.relative_to(self.work)): file for file in self.work.rglob("*")
               if file.is_file() and not {".perfdoc", "__pycache__"} & set(file.relative_to(self.work).parts)}
        changed = [f"{name} is gone" for name in [*FILES, "train.py"] if name not in now]
        changed += [f"{name} is new" for name in now if name not in FILES and name != "train.py"]
        return changed + [f"{name} is changed" for name, content in FILES.items()
                          if name in now and now[name].read_bytes() != content]


def reason(scan: Scan) -> str:
    """What the capture says of the run's end; what stands in the way of reading one."""
    try:
        return str(report.load(scan.run).run.reason) if scan.run else ""
    except PerfdocError as error:
        return str(error)


def lost(scan: Scan) -> int:
    """Blocks that were written as events and that ``perfdoc report`` does not have."""
    written = len(scan.events("block"))
    if not written or scan.run is None:
        return 0
    shown = subprocess.run([sys.executable, "-m", "perfdoc", "report", "--json", str(scan.run)], capture_output=True,
                           text=True, check=False, timeout=120)
    return written - len(report.load(scan.run).blocks) if shown.returncode == 0 else written


def processes_of(run: Path) -> Iterator[psutil.Process]:
    """Processes that carry ``run`` in their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PERFDOC_RUN_DIR") == str(run):
                yield process


def _alive(processes: list[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.cmdline()
            yield process


def _fresh(before: Callable[[], None] | None) -> None:
    """Signals as a terminal's foreground has them: a shell's background jobs ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if before is not None:
        before()
