"""Runs the user's command with perfdoc brought in through the environment, and watches over it from outside."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

import perfdoc
from perfdoc import capture as captures
from perfdoc import host, page_faults
from perfdoc.errors import PerfdocError
from perfdoc.gpus import Gpus
from perfdoc.leftovers import git_status, tidy
from perfdoc.measurement import Measurement, Unavailable
from perfdoc.probe import packages

MOST_LAPS = 4
"""Launches of the user's command in one scan: after a treatment broke it, or it ended before all was settled."""
END_GRACE_SECONDS = 20.0
"""Time for the script to end itself after the experiment; then it is ended."""
INTERRUPT_GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2


@dataclass
class Options:
    """What ``perfdoc scan`` was asked."""

    command: list[str]
    budget: float = 120.0
    wait: float = 300.0
    smallest_effect: float = 0.02
    seed: int | None = None
    only: tuple[str, ...] = ()
    folder: Path | None = None
    show_output: bool = False
    guard: bool = True
    experiment: bool = True
    allow: tuple[str, ...] = ()
    """What the plan may do besides: ``numerics``, change the training's numbers."""
    errand: str = ""
    """Module whose ``Errand`` is run in the loop in place of an experiment."""
    errand_settings: dict[str, Any] = field(default_factory=dict)
    errand_limit: float | None = None
    """Seconds after which an errand is ended from outside: a data set that hangs must not hang perfdoc."""


@dataclass
class Lap:
    """One launch of the user's command."""

    exit_code: int
    ended_by_scan: bool
    active: str | None
    """Config id that was switched on when the command ended by itself; None under the control."""
    blocks: int
    stepped: bool
    why: str = ""


@dataclass
class Watch:
    """What the parent has read from the event files so far."""

    folder: Path
    lap: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def news(self) -> list[dict[str, Any]]:
        """Events written since the last call (single steps are in the step log)."""
        found = []
        for file in sorted(self.folder.glob(f"events-{self.lap}-*.jsonl")):
            with file.open("rb") as f:
                f.seek(self._offsets.get(file, 0))
                data = f.read()
            whole = data.rfind(b"\n") + 1
            self._offsets[file] = self._offsets.get(file, 0) + whole
            for line in data[:whole].splitlines():
                with contextlib.suppress(ValueError):
                    found.append({**json.loads(line), "file": file.stem})
        self.events += found
        return found

    def this_lap(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind of the current lap."""
        return [e for e in self.events if e["e"] == kind and e.get("lap") == self.lap]

    def seen(self) -> dict[str, dict[str, Any]]:
        """What the current lap's processes got to, by name."""
        return {e["what"]: e for e in self.this_lap("seen")}


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


def make_run_folder(options: Options) -> Path:
    """Make the run's folder. Raises PerfdocError where it cannot be written."""
    base = options.folder or Path.cwd() / ".perfdoc"
    name = f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = base / "runs" / name
    try:
        folder.mkdir(parents=True)
        (base / ".gitignore").write_text("*\n", encoding="ascii")
    except OSError as error:
        raise PerfdocError(
            f"cannot write the run's folder {folder}: {error.strerror or error}. Name another place with --output FOLDER."
        ) from None
    return folder


def _places() -> str:
    found = [f"perfdoc={Path(perfdoc.__file__).parent}"]
    for name in packages():
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise PerfdocError(f"the probe package {name!r} is announced but cannot be found. Reinstall it.")
        found.append(f"{name}={next(iter(spec.submodule_search_locations))}")
    return os.pathsep.join(found)


def environment(folder: Path, python_path: Sequence[str] = ()) -> dict[str, str]:
    """The user's environment, with perfdoc in it and trackers off; ``python_path`` comes before their own entries."""
    env = dict(os.environ)
    # perfdoc's own sitecustomize must be the first: it hands on to the user's, theirs knows of none.
    bootstrap = str(Path(perfdoc.__file__).parent / "inject" / "bootstrap")
    env["PYTHONPATH"] = os.pathsep.join(p for p in (bootstrap, *python_path, env.get("PYTHONPATH")) if p)
    env["PERFDOC_RUN_DIR"] = str(folder)
    env["PERFDOC_PACKAGES"] = _places()
    trackers = folder / "trackers"
    env.update(
        WANDB_MODE="disabled", WANDB_DIR=str(trackers), WANDB_SILENT="true",
        MLFLOW_TRACKING_URI=f"file://{trackers / 'mlflow'}",
        COMET_START_MODE="offline", COMET_OFFLINE_DIRECTORY=str(trackers / "comet"),
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


Show = Callable[[dict[str, Any]], None]
"""Called with every event of interest, for the progress bar."""


class Scan:
    """One scan: laps of the user's command until the questions are settled or the budget is spent."""

    def __init__(self, options: Options, show: Show) -> None:
        self.options = options
        self.show = show
        self.folder = make_run_folder(options)
        self.watch = Watch(self.folder)
        self.machine = Machine()
        self.interrupted = False
        self._spent = 0.0
        self._git = git_status(Path.cwd())

    def run(self) -> captures.Capture:
        """Run all laps and write the capture, whatever happens in between."""
        started = time.time()
        laps: list[Lap] = []
        excluded: list[str] = []
        try:
            while len(laps) < MOST_LAPS:
                self.watch.lap = len(laps)
                lap = self._lap(excluded)
                laps.append(lap)
                if self.interrupted or lap.ended_by_scan or not self.options.experiment:
                    break
                left = self.options.budget - self._spent
                # Also where the budget is spent: without the change it shows whether the script fails by itself.
                if lap.active and lap.exit_code != 0:
                    error = (self.watch.this_lap("failure") or [{}])[-1]
                    for arm in self._suspects(lap.active):
                        excluded.append(arm)
                        self._note_failed_arm(arm, error, lap.exit_code)
                    self.show({"e": "relaunch", "why": f"{lap.active} broke the script; going on without it"})
                    continue
                if lap.exit_code == 0 and lap.blocks >= 4 and left > 0.15 * self.options.budget:
                    self.show({"e": "relaunch", "why": "the script ended before the questions were settled"})
                    continue
                break
        finally:
            capture = self._finish(started, laps)
        return capture

    def _suspects(self, arm: str) -> list[str]:
        """What broke the script: the parts of a stack that no block ever ran under; the stack itself where all of them did.

        Without this every stack that holds the culprit would break the script again.
        """
        ran = {part for event in self.watch.events if event["e"] == "block" for part in str(event["arm"]).split("+")}
        return [part for part in arm.split("+") if part not in ran] or [arm]

    def _note_failed_arm(self, arm: str, error: dict[str, Any], exit_code: int) -> None:
        what = f"{error['type']}: {error['message'].splitlines()[0] if error['message'] else ''}" if error else (
            f"the process ended with {_status(exit_code)}")
        line = {"e": "arm_failed", "t": time.time(), "lap": self.watch.lap, "arm": arm, "error": what}
        with (self.folder / "events-parent.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def _settings(self, excluded: Sequence[str]) -> None:
        history = None
        blocks = [e for e in captures.read_events(self.folder) if e["e"] == "block"]
        if blocks:
            history = str(self.folder / "history.json")
            Path(history).write_text(json.dumps(blocks), encoding="utf-8")
        seed = self.options.seed if self.options.seed is not None else secrets.randbelow(2**31)
        self.options.seed = seed
        settings = {
            "lap": self.watch.lap, "budget": self.options.budget, "spent": self._spent, "guard": self.options.guard,
            "protect": [os.getcwd()], "experiment": self.options.experiment, "only": list(self.options.only),
            "packages": packages(), "smallest_effect": self.options.smallest_effect, "seed": seed, "history": history,
            "excluded": list(excluded), "allow_numerics": "numerics" in self.options.allow,
            "errand": self.options.errand, **self.options.errand_settings,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def log(self) -> Path:
        """Where the script's own output goes."""
        return self.folder / "output.log"

    def _lap(self, excluded: Sequence[str]) -> Lap:
        self._settings(excluded)
        with contextlib.ExitStack() as stack:
            out: Any = None
            if not self.options.show_output:
                out = stack.enter_context(self.log.open("ab"))
            try:
                process = subprocess.Popen(self.options.command, env=environment(self.folder), stdout=out,
                                           stderr=subprocess.STDOUT if out else None)
            except OSError as error:
                raise PerfdocError(f"cannot run {self.options.command[0]}: {error.strerror or error}") from None
            why = self._wait(process)
        self._end_everything(process)
        self.watch.news()
        first = self.watch.seen().get("optimizer step")
        if first is not None:
            last = max(e["t"] for e in self.watch.events if e.get("lap") == self.watch.lap and "t" in e)
            self._spent += last - first["t"]
        switches = self.watch.this_lap("switch")
        active = switches[-1]["config"] if switches else "control"
        return Lap(
            process.returncode, bool(self.watch.this_lap("end")), None if active == "control" else active,
            len(self.watch.this_lap("block")), first is not None, why,
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the command's end; end it where it does not end itself. Says why it was ended, if it was."""
        started, ended_at, errand_at = time.monotonic(), None, None
        while True:
            try:
                process.wait(POLL_SECONDS)
                return ""
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                self._interrupt(process)
                return "interrupted"
            try:
                for event in self.watch.news():
                    self.show(event)
                self.machine.sample(process.pid)
                now = time.monotonic()
                if ended_at is None and self.watch.this_lap("end"):
                    ended_at = now
                if ended_at is not None and now - ended_at > END_GRACE_SECONDS:
                    _terminate(process.pid)
                    return "did not end by itself"
                seen = self.watch.seen()
                if errand_at is None and "errand" in seen:
                    errand_at = now
                limit = self.options.errand_limit
                if errand_at is not None and limit is not None and ended_at is None and now - errand_at > limit:
                    _terminate(process.pid)
                    return "hung"
                if not {"optimizer step", "errand"} & set(seen) and now - started > self.options.wait:
                    _terminate(process.pid)
                    return "never trained"
            except KeyboardInterrupt:
                self._interrupt(process)
                return "interrupted"

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        """Ctrl-C went to the script too (same terminal): give it a moment, then end it."""
        self.interrupted = True
        try:
            process.wait(1.0)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(INTERRUPT_GRACE_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                _terminate(process.pid)

    def _end_everything(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing that this run started is alive afterwards, and none of its shared memory is left."""
        pids = {process.pid}
        for other in processes_of_run(str(self.folder)):
            pids.add(other.pid)
            with contextlib.suppress(psutil.Error):
                other.terminate()
        gone_by = time.monotonic() + 5
        while list(processes_of_run(str(self.folder))) and time.monotonic() < gone_by:
            time.sleep(0.05)
        for other in processes_of_run(str(self.folder)):
            with contextlib.suppress(psutil.Error):
                other.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        pids |= {int(e["pid"]) for e in self.watch.this_lap("process")}
        remove_shared_memory(pids)

    def _finish(self, started: float, laps: list[Lap]) -> captures.Capture:
        events = captures.read_events(self.folder)
        run: dict[str, Any] = {
            "id": self.folder.name,
            "command": self.options.command,
            "directory": os.getcwd(),
            "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 2),
            "perfdoc": perfdoc.__version__,
            "budget": self.options.budget,
            "smallest_effect": self.options.smallest_effect,
            "seed": self.options.seed,
            "laps": len(laps),
            **self._outcome(laps, events),
        }
        capture = captures.from_events(events, run, self.machine.describe())
        capture.measurements += self.machine.measurements()
        capture.guard["moved"] = tidy(events, Path.cwd(), self.folder / "redirected")
        if self._git is not None:
            now = git_status(Path.cwd())
            capture.guard["git_changed"] = sorted((now or set()) - self._git)
        for name in ("history.json", "settings.json"):
            (self.folder / name).unlink(missing_ok=True)
        for file in [*self.folder.glob("leader-*"), *self.folder.glob("schedule-*")]:
            file.unlink()
        capture.write(self.folder)
        return capture

    def _outcome(self, laps: list[Lap], events: list[dict[str, Any]]) -> dict[str, Any]:
        """How the run ended, as ``outcome``, with the reason in words and the user's exit code."""
        if not laps:
            return {"outcome": "failed", "reason": "the command could not be run", "exit_code": 1}
        last = laps[-1]
        stepped = any(lap.stepped for lap in laps)
        code = last.exit_code
        injected = [file.read_text(encoding="utf-8") for file in self.folder.glob("inject-error-*.txt")]
        injected += [e["error"] for e in events if e["e"] == "inject_failed"]
        if self.interrupted:
            return {"outcome": "interrupted", "reason": "stopped with Ctrl-C", "exit_code": 130}
        if last.ended_by_scan:
            return {"outcome": "complete", "reason": "", "exit_code": 0}
        if injected:
            return {"outcome": "failed", "reason": "perfdoc could not get into the script: " + injected[-1].strip()[-500:],
                    "exit_code": code or 1}
        if last.why == "hung":
            return {"outcome": "failed", "exit_code": 1,
                    "reason": f"it hung: nothing came for longer than the {self.options.errand_limit:.0f} s that it may take"}
        if last.why == "never trained":
            return {"outcome": "never trained", "exit_code": 3,
                    "reason": f"no optimizer step within {self.options.wait:g} s; {_got_to(self.watch.seen(), events)}"}
        if code != 0:
            failure = next((e for e in reversed(events) if e["e"] == "failure"), None)
            what = f"{failure['type']}: {failure['message']}" if failure else f"it ended with {_status(code)}"
            return {"outcome": "failed", "reason": f"the script failed by itself: {what}",
                    "exit_code": code if code > 0 else 128 - code}
        if not stepped:
            return {"outcome": "never trained", "exit_code": 3,
                    "reason": f"the script ended without an optimizer step; {_got_to(self.watch.seen(), events)}"}
        if not any(lap.blocks for lap in laps):
            return {"outcome": "too short", "exit_code": 0,
                    "reason": "the script ended before its loop was known: let it train longer (more epochs or data)"}
        return {"outcome": "complete", "reason": "the script ended before all questions were settled", "exit_code": 0}


class Machine:
    """CPU use of others and of the hypervisor while the scan runs, sampled once a second from outside."""

    def __init__(self) -> None:
        self._last: tuple[float, float, float, float] | None = None
        self._next = 0.0
        self.other: list[float] = []
        self.steal: list[float] = []
        self.gpus = Gpus()

    def sample(self, pid: int) -> None:
        """Take a sample if a second has passed since the last one."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0
        self.gpus.sample()
        times = psutil.cpu_times()
        steal = float(getattr(times, "steal", 0.0))
        busy = float(times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))
        ours = 0.0
        try:
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True), psutil.Process()]
        except psutil.Error:
            tree = []
        for process in tree:
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                ours += used.user + used.system + used.children_user + used.children_system
        if self._last is not None and tree:
            then, last_busy, last_steal, last_ours = self._last
            seconds = now - then
            self.other.append(round(max(0.0, (busy - last_busy) - max(0.0, ours - last_ours)) / seconds, 4))
            self.steal.append(round(max(0.0, steal - last_steal) / seconds, 4))
        self._last = (now, busy, steal, ours)

    def measurements(self) -> list[Measurement | Unavailable]:
        """What was sampled; of the CPU nothing where the run was over before the second sample."""
        self.gpus.close()
        found = [*self.gpus.measurements(), page_faults.measure()]
        if not self.other:
            return found
        cores = psutil.cpu_count() or 1
        return [
            *found,
            Measurement("machine.other_cpu", "1", tuple(self.other), {}, "measured in isolation"),
            Measurement("machine.steal", "1", tuple(self.steal), {}, "measured in isolation"),
            Measurement("machine.cores", "1", (float(cores),), {}, "measured in isolation"),
            *_shm(),
        ]

    @staticmethod
    def describe() -> dict[str, Any]:
        """The machine in words and figures, and which one it is; memory in bytes."""
        model = ""
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "")
        return {"system": sys.platform, "cpu": model, "cores": psutil.cpu_count(), "memory": psutil.virtual_memory().total,
                **host.identity()}


def _shm() -> list[Measurement | Unavailable]:
    """Size of /dev/shm in bytes."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return [Unavailable("machine.shm", "this system has no /dev/shm")]
    return [Measurement("machine.shm", "B", (float(found.f_blocks * found.f_frsize),), {}, "measured in isolation")]


def remove_shared_memory(pids: set[int]) -> None:
    """Remove what torch left in /dev/shm for processes that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/shm"):
            parts = name.split("_")
            if parts[0] == "torch" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) in pids:
                os.unlink(os.path.join("/dev/shm", name))


def processes_of_run(folder: str) -> Iterator[psutil.Process]:
    """Processes that carry the run in their environment."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("PERFDOC_RUN_DIR") == folder
            ):
                yield process
        except psutil.Error:
            continue


def _terminate(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        tree = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=3)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _status(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _got_to(seen: dict[str, dict[str, Any]], events: list[dict[str, Any]]) -> str:
    """How far a script came that never trained, in words."""
    if not any(e["e"] == "process" for e in events):
        return (
            "torch was never imported in it. Is it the right script? (perfdoc cannot get into `python -I`, `-E` or `-S`, "
            "nor into programs that are not Python.)"
        )
    order = ("first batch", "forward", "backward")
    reached = [what for what in order if what in seen]
    missing = [what for what in order if what not in seen]
    words = {"first batch": "a DataLoader was iterated", "forward": "a model was called", "backward": "backward ran"}
    said = "; ".join(words[what] for what in reached) or "torch was imported, nothing else"
    return f"seen: {said}. Not seen: {', '.join(missing) or 'an optimizer step'}. Use --wait if the start takes longer."
