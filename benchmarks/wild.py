"""Are scripts that nobody here wrote scanned, left unharmed, and never blamed for what perfdoc did?

    python benchmarks/wild.py FOLDER [--budget 20] [--only NAME ...] [--json FILE] [--python PATH]

Every folder in FOLDER that has a `run.sh` is one script, kept as its author wrote it, with the data that it needs. `run.sh`
goes to the right folder, sets what the script wants in its environment, and starts training as its last command, with $PERFDOC
unquoted in front of it:

    cd "$(dirname "$0")" && $PERFDOC python train.py --epochs 3

$PERFDOC is `python -m perfdoc scan --budget N --json --` in a scan and empty in a plain run. `python` is the one that --python
names. The home folder is an empty one, so that caches are seen; there is no network to rely on and no terminal.

For every script: a plain run of --plain-seconds (kept in FOLDER/plain-runs.json until the script's files change), then one
scan, each on a copy of its own below FOLDER (not below the temporary folder, where perfdoc lets scripts write). The runs of the
scans stay in FOLDER/.runs. The table says how the scan ended, and

* harm: what is new, gone or different in the script's folder afterwards (names, kinds, bytes, modes and times of change);
  processes that are left; torch's shared memory that is left; a scan that had to be killed ("hung").
* wrong blame: the answer says that the script failed by itself, or that it never trained, and the plain run did not fail.
  A script that fails alone is no script to scan: it counts for harm only.
* changes said to fail: those of the scan's list. Whether a change is rightly named cannot be seen from outside: where the error
  is one that arithmetic or bookkeeping of the script raises (a division by zero, a missing file or key), it is one to read.

Not counted as harm: `.perfdoc`, which the scan is meant to leave; `__pycache__`, which Python itself writes in every run of
whatever script; and the times of folders, which both of them change. Files in the home folder are counted in a column of their
own: downloads and caches are meant to stay.

Exit code 1 where anything was harmed or wrongly blamed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

EXCEPTED = (".perfdoc", "__pycache__")
START_SECONDS = 120.0
"""Time for a script to reach its first step, of several launches together, before a scan counts as hung."""
LOOK_SECONDS = 0.5
"""How often the processes of a run are listed while it lasts."""
PLAIN_FILE = "plain-runs.json"
RUNS = ".runs"
BLAMES_SCRIPT = re.compile(r"failed by itself|the script failed|its own (doing|failure)|is it the right script", re.IGNORECASE)
FAILED_CHANGE = re.compile(r"fails in this loop|failed in this loop|broke the script")
TO_READ = re.compile(
    r"\b(ZeroDivision|StopIteration|Index|Key|Name|UnboundLocal|Attribute|FileNotFound|FileExists|NotADirectory|IsADirectory"
    r"|Permission|Assertion|Recursion|BrokenPipe|EOF|OS)(Error)?\b"
)
"""Errors that no change of perfdoc's raises in itself: the script's bookkeeping was disturbed."""


def tree(folder: Path) -> dict[str, str]:
    """What lies in ``folder``, by relative path: kind, mode, time of change and a hash of the bytes."""
    found = {}
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in EXCEPTED)
        for name in [*folders, *files]:
            path = Path(base, name)
            about = path.lstat()
            mode = oct(stat.S_IMODE(about.st_mode))
            if stat.S_ISLNK(about.st_mode):
                what = f"link {os.readlink(path)}"
            elif stat.S_ISDIR(about.st_mode):
                what = f"folder {mode}"
            elif stat.S_ISREG(about.st_mode):
                what = f"file {mode} {about.st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            else:
                what = f"special {mode}"
            found[str(path.relative_to(folder))] = what
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The differences of two trees, one a line: ``new``, ``gone`` or ``changed`` and the path."""
    said = [f"new {name}" for name in after if name not in before]
    said += [f"gone {name}" for name in before if name not in after]
    for name in before.keys() & after.keys():
        old, new = before[name].split(), after[name].split()
        if old != new:
            only_time = old[:2] == new[:2] and old[3:] == new[3:] and old[0] == "file"
            said.append(f"changed {name}" + (" (time only)" if only_time else ""))
    return sorted(said)


@dataclass
class Ended:
    """One run of a `run.sh`: what it printed, its exit code, and what it left."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool
    changed: list[str]
    processes: list[str]
    shared_memory: list[str]
    caches: int


def left_processes(folder: Path, ours: set[int]) -> Iterator[psutil.Process]:
    """Processes that carry a run of ``folder`` in their environment, work in it, or came of the run by their ids ``ours``."""
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            of_run = process.environ().get("PERFDOC_RUN_DIR", "").startswith(str(folder))
            if of_run or process.pid in ours or Path(process.cwd()).is_relative_to(folder):
                yield process
        except (psutil.Error, OSError):
            continue


def run(script: Path, python: Path, prefix: str, limit: float, keep: Path | None = None) -> Ended:
    """Run a copy of ``script``'s folder for at most ``limit`` seconds; everything it started is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=script.parent, ignore_cleanup_errors=True) as scratch:
        work, home = Path(scratch).resolve() / script.name, Path(scratch).resolve() / "home"
        shutil.copytree(script, work, symlinks=True)
        home.mkdir()
        before = tree(work)
        env = {**os.environ, "PERFDOC": prefix, "HOME": str(home), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        for name in ("PERFDOC_RUN_DIR", "XDG_CACHE_HOME", "PYTHONDONTWRITEBYTECODE"):
            env.pop(name, None)
        pids: dict[int, float] = {}
        started = time.monotonic()
        printed, complained = Path(scratch, "out"), Path(scratch, "err")
        with printed.open("wb") as out, complained.open("wb") as err:
            process = subprocess.Popen(["bash", "run.sh"], cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                       start_new_session=True)
            hung = not _wait(process, started + limit, pids)
            seconds = time.monotonic() - started
            if hung:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            else:
                time.sleep(1.0)  # what ends by itself right after is not left behind
            alive = {pid for pid, born in pids.items() if psutil.pid_exists(pid) and _born(pid) == born}
            left = list(left_processes(Path(scratch).resolve(), alive))
            names = [] if hung else [_named(other) for other in left]
            for other in left:
                _kill(other)
            psutil.wait_procs(left, timeout=5)
            shared = [name for name in os.listdir("/dev/shm") if _maker(name) in pids] if os.path.isdir("/dev/shm") else []
            for name in shared:
                Path("/dev/shm", name).unlink(missing_ok=True)
        if keep is not None:
            _keep_runs(work, keep)
        caches = sum(len(files) for _, _, files in os.walk(home))
        changed = changes(before, tree(work))
        return Ended(process.returncode, printed.read_text(errors="replace"), complained.read_text(errors="replace"), seconds,
                     hung, changed, names, [] if hung else shared, caches)


def _wait(process: subprocess.Popen[bytes], until: float, pids: dict[int, float]) -> bool:
    """Wait for a run's end and note all its processes; False where it lasted too long."""
    while True:
        try:
            tree_of = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            pids.update({other.pid: other.create_time() for other in tree_of})
        except psutil.Error:
            pass
        try:
            process.wait(LOOK_SECONDS)
            return True
        except subprocess.TimeoutExpired:
            if time.monotonic() > until:
                return False


def _born(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120] or process.name()
    except psutil.Error:
        return f"process {process.pid}"


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        pass


def _maker(name: str) -> int | None:
    """The process that made a file of /dev/shm, where it is one of torch's."""
    parts = name.split("_")
    return int(parts[1]) if parts[0] == "torch" and len(parts) > 2 and parts[1].isdigit() else None


def _keep_runs(work: Path, keep: Path) -> None:
    for runs in work.rglob(".perfdoc/runs"):
        shutil.copytree(runs, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("redirected", "overlay"))


@dataclass
class Row:
    """What came of one script."""

    name: str
    ended: str
    reason: str = ""
    headline: str = ""
    changed: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    shared_memory: list[str] = field(default_factory=list)
    blamed: str = ""
    failed_changes: list[str] = field(default_factory=list)
    blocks: int = 0
    launches: int = 0
    over_budget: float = 0.0
    code: int = 0
    caches: int = 0
    plain: str = ""
    fails_alone: bool = False
    stderr: str = ""

    @property
    def scanned(self) -> bool:
        return self.ended == "complete" and self.blocks > 0

    @property
    def unharmed(self) -> bool:
        return not (self.changed or self.processes or self.shared_memory) and self.ended != "hung"

    @property
    def to_read(self) -> list[str]:
        return [text for text in self.failed_changes if TO_READ.search(text)]

    def line(self) -> tuple[object, ...]:
        harm = [f"{len(self.changed)} paths: {self.changed[0]}"] if self.changed else []
        harm += [f"{len(self.processes)} processes"] if self.processes else []
        harm += [f"{len(self.shared_memory)} in /dev/shm"] if self.shared_memory else []
        return (self.name, self.ended, self.blocks, self.launches, "; ".join(harm)[:60] or "-", self.blamed[:60] or "-",
                len(self.failed_changes), len(self.to_read), round(self.over_budget), self.caches, self.plain,
                (self.headline or self.reason or self.stderr.strip().rpartition("\n")[2])[:80])


HEADS = ("script", "ended", "blocks", "launches", "harm", "wrong blame", "changes said to fail", "to read", "s over budget",
         "caches", "plain run", "headline")


def answer(out: str) -> dict[str, Any] | None:
    """The JSON that a scan printed, whatever `run.sh` printed before it; None where there is none."""
    for start in re.finditer(r"^\{", out, re.MULTILINE):
        try:
            found = json.loads(out[start.start():])
        except ValueError:
            continue
        if isinstance(found, dict) and "run" in found:
            return found
    return None


def blame(found: Mapping[str, Any] | None, err: str, plain_failed: bool) -> str:
    """What the answer says against the script although a plain run of it does not fail; "" where it says nothing."""
    if plain_failed:
        return ""
    said = [str(found["run"].get("reason", "")), str(found.get("headline", ""))] if found else []
    said += [line for line in err.splitlines() if line.startswith("perfdoc:")]
    return next((text for text in said if BLAMES_SCRIPT.search(text)), "")


def failed_changes(found: Mapping[str, Any] | None) -> list[str]:
    """The changes that the answer says to fail in this loop, with the error."""
    if found is None:
        return []
    told = [f"{entry['what']}: {entry['why']}" for entry in found.get("untestable", [])]
    told += [f"{arm['change']}: {arm['note']}" for arm in found.get("arms", []) if arm.get("note")]
    return [text for text in dict.fromkeys(told) if FAILED_CHANGE.search(text)]


def tried_blocks(keep: Path) -> int:
    """Blocks of the kept run that measured a change, not the control."""
    captures = [json.loads(file.read_text()) for file in keep.glob("*/capture.json")]
    return sum(block["arm"] != "control" for capture in captures for block in capture["blocks"])


def judge(name: str, ended: Ended, budget: float, plain: Mapping[str, Any], blocks: int) -> Row:
    """The row of the table for one scan."""
    found = answer(ended.out)
    about = found["run"] if found else {}
    how = "hung" if ended.hung else about.get("outcome", "no answer")
    return Row(
        name, how, about.get("reason", ""), found.get("headline", "") if found else "", ended.changed, ended.processes,
        ended.shared_memory, blame(found, ended.err, bool(plain["failed"])), failed_changes(found), blocks,
        about.get("laps", 0), ended.seconds - budget, ended.code, ended.caches,
        f"failed: {plain['said']}" if plain["failed"] else str(plain["said"]), bool(plain["failed"]), ended.err[-3000:],
    )


def plain_run(script: Path, python: Path, seconds: float, file: Path) -> dict[str, Any]:
    """Whether the script fails by itself within ``seconds``; remembered in ``file`` while its files stay the same."""
    known = json.loads(file.read_text()) if file.exists() else {}
    # Without the times of change: a copy of the folder is the same script.
    content = {name: re.sub(r"^(file \S+) \d+", r"\1", what) for name, what in tree(script).items()}
    key = hashlib.sha256(json.dumps([content, str(python), seconds], sort_keys=True).encode()).hexdigest()
    if known.get(script.name, {}).get("key") != key:
        ended = run(script, python, "", seconds)
        failed = not ended.hung and ended.code != 0
        last = (ended.err.strip() or ended.out.strip()).rpartition("\n")[2][-200:]
        said = last if failed else f"still training after {seconds:g} s" if ended.hung else f"done after {ended.seconds:.0f} s"
        known = json.loads(file.read_text()) if file.exists() else {}
        known[script.name] = {"key": key, "failed": failed, "said": said, "changed": ended.changed[:50]}
        file.write_text(json.dumps(known, indent=1))
    return dict(known[script.name])


def scan(script: Path, python: Path, budget: float, plain: Mapping[str, Any], keep: Path) -> Row:
    limit = START_SECONDS + 2 * budget + 120
    shutil.rmtree(keep, ignore_errors=True)
    ended = run(script, python, f"python -m perfdoc scan --budget {budget:g} --json --", limit, keep)
    return judge(script.name, ended, budget, plain, tried_blocks(keep) if keep.exists() else 0)


def totals(rows: list[Row]) -> str:
    train = [row for row in rows if not row.fails_alone]

    def share(counted: list[bool]) -> str:
        return f"{sum(counted)} of {len(counted)} ({sum(counted) / max(1, len(counted)):.0%})"

    return "".join((
        f"{len(rows) - len(train)} scripts fail alone; of the others scanned {share([row.scanned for row in train])}; of all ",
        f"unharmed {share([row.unharmed for row in rows])}, wrongly blamed {sum(bool(row.blamed) for row in rows)}, hung ",
        f"{sum(row.ended == 'hung' for row in rows)}, processes left {sum(len(row.processes) for row in rows)}; changes said ",
        f"to fail {sum(len(row.failed_changes) for row in rows)}, of which to read {sum(len(row.to_read) for row in rows)}",
    ))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="folders of scripts, each with a run.sh")
    parser.add_argument("--budget", type=float, default=20, help="seconds a scan measures")
    parser.add_argument("--only", nargs="*", default=(), help="names of folders")
    parser.add_argument("--json", type=Path, help="where everything is written, after every script")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="has perfdoc and what the scripts import")
    parser.add_argument("--plain-seconds", type=float, default=30)
    args = parser.parse_args()
    scripts = sorted(file.parent for file in args.folder.resolve().glob("*/run.sh"))
    scripts = [script for script in scripts if not args.only or script.name in args.only]
    if not scripts:
        raise SystemExit(f"no folder with a run.sh in {args.folder}")
    rows: list[Row] = []
    for script in scripts:
        python = args.python.absolute()
        plain = plain_run(script, python, args.plain_seconds, args.folder / PLAIN_FILE)
        rows.append(scan(script, python, args.budget, plain, args.folder.resolve() / RUNS / script.name))
        print(rows[-1].line(), file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps([{**asdict(row), "scanned": row.scanned} for row in rows], indent=1))
    print(tabulate([row.line() for row in rows], headers=HEADS))
    print(f"\n{totals(rows)}")
    if any(row.blamed or not row.unharmed for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
