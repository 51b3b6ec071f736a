"""Runs the user's command with perfdoc brought in through the environment, and watches over it from outside."""

from __future__ import annotations

import contextlib
import dataclasses
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
from perfdoc.capture import document as captures
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.registry import packages
from perfdoc.launch import endings, host, launches, page_faults, signals, variables
from perfdoc.launch.gpus import Gpus
from perfdoc.launch.heartbeat import Heartbeat
from perfdoc.launch.leftovers import Listing, git_status, tidy
from perfdoc.launch.unwatched import Unwatched

END_GRACE_SECONDS = 20.0
"""Time for the script to end itself after the experiment; then it is ended."""
INTERRUPT_GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
MOST_LOG = 64 * 2**20
KEPT_LOG = 2**20
"""Maximum size of the file with the script's output, in bytes, and what is kept of its end when it is reached."""
MOST_LEFT = 200
"""Maximum number of files that are told to be new in the user's folder."""


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
        self.interrupted: KeyboardInterrupt | None = None
        self._spent = 0.0
        self._excluded: dict[str, launches.Failure | None] = {}
        self._natural = False
        self._git = git_status(Path.cwd())
        self._files = Listing(Path.cwd(), self.folder.parent.parent)

    def run(self) -> captures.Capture:
        """Run all launches and write the capture, whatever happens in between."""
        started = time.time()
        done: list[launches.Launch] = []
        todo = launches.Next("start")
        try:
            with signals.as_interrupts():
                while todo.do == "start":
                    self.watch.lap = len(done)
                    done.append(self._launch(todo, done))
                    if not self.options.experiment:
                        break
                    left = self.options.budget - self._spent
                    todo = launches.following(done, left, self._parts_that_ran())
                    if todo.natural:
                        self._natural = True
                        self._clear(done[-1].failure)
                    if todo.excluded:
                        self._leave_out(todo.excluded, done)
                    if todo.do == "start":
                        self.show({"e": "relaunch", "why": todo.why})
        except KeyboardInterrupt as error:  # between two launches
            self.interrupted = error
        finally:
            with signals.put_off():
                capture = self._finish(started, done)
        return capture

    def _parts_that_ran(self) -> set[str]:
        """Parts of arms that a whole block ran under. Of a stack that broke the script the others are suspected.

        Without this every stack that holds the culprit would break the script again.
        """
        return {part for event in self.watch.events if event["e"] == "block" for part in str(event["arm"]).split("+")}

    def _leave_out(self, arms: Sequence[str], done: list[launches.Launch]) -> None:
        """Keep that ``arms`` were on, or had been, when the script broke; they are left out from now on."""
        place = max(i for i, launch in enumerate(done) if launch.kind == "experiment")
        launch = done[place] = dataclasses.replace(done[place], left_out=tuple(arms))
        if launch.why == "stuck":
            what = "the loop stood still (stacks in the run's folder)"
        else:
            what = str(launch.failure) if launch.active else f"the script broke after it: {launch.failure}"
        for arm in arms:
            self._excluded[arm] = launch.failure
            self._write("arm_failed", arm=arm, error=what)

    def _clear(self, failure: launches.Failure | None) -> None:
        """Changes that were left out for a failure like this one were not what caused it."""
        for arm in [arm for arm, why in self._excluded.items() if failure is not None and failure.like(why)]:
            del self._excluded[arm]
            self._write("arm_cleared", arm=arm)

    def _write(self, e: str, **fields: Any) -> None:
        """Keep an event of the parent's own."""
        line = {"e": e, "t": time.time(), "lap": self.watch.lap, **fields}
        with contextlib.suppress(OSError), (self.folder / "events-parent.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def _settings(self, todo: launches.Next, done: Sequence[launches.Launch]) -> None:
        history = None
        blocks = [e for e in captures.read_events(self.folder) if e["e"] == "block"]
        if blocks:
            history = str(self.folder / "history.json")
            Path(history).write_text(json.dumps(blocks), encoding="utf-8")
        seed = self.options.seed if self.options.seed is not None else secrets.randbelow(2**31)
        self.options.seed = seed
        check = todo.kind == "check"
        shortest = min((launch.train_seconds for launch in done if launch.stepped and not launch.why), default=None)
        progress = [e for e in self.watch.events if e["e"] == "progress"]
        settings = {
            "lap": self.watch.lap, "parent": os.getpid(),
            "budget": todo.seconds if check else self.options.budget, "spent": 0.0 if check else self._spent,
            "guard": self.options.guard,
            "protect": [os.getcwd()], "experiment": self.options.experiment and not check, "only": list(self.options.only),
            "packages": packages(), "smallest_effect": self.options.smallest_effect, "seed": seed, "history": history,
            "verdicts": progress[-1]["settled"] if progress else {},
            "excluded": list(self._excluded), "allow_numerics": "numerics" in self.options.allow,
            "natural": self._natural, "pausing": not any(e["e"] in ("woken", "stuck") for e in self.watch.events),
            "trained_seconds": shortest,
            "errand": "" if check else self.options.errand, **self.options.errand_settings,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def log(self) -> Path:
        """Where the script's own output goes."""
        return self.folder / "output.log"

    def _launch(self, todo: launches.Next, done: Sequence[launches.Launch]) -> launches.Launch:
        self._settings(todo, done)
        began = time.time()
        with contextlib.ExitStack() as stack:
            out: Any = None
            if not self.options.show_output:
                out = stack.enter_context(self.log.open("ab"))
            try:
                process = subprocess.Popen(self.options.command, env=environment(self.folder), stdout=out,
                                           stderr=subprocess.STDOUT if out else None)
            except OSError as error:
                raise PerfdocError(f"cannot run {self.options.command[0]}: {error.strerror or error}") from None
            why = self._wait(process, todo.seconds if todo.kind == "check" else self.options.budget)
        self._end_everything(process)
        self.watch.news()
        first = self.watch.seen().get("optimizer step")
        start_seconds, train_seconds = time.time() - began, 0.0
        if first is not None:
            last = max(e["t"] for e in self.watch.events if e.get("lap") == self.watch.lap and "t" in e)
            late = sum(e["seconds"] for e in self.watch.this_lap("late_start"))
            start_seconds, train_seconds = first["t"] + late - began, last - first["t"] - late
            self._spent += train_seconds
        if done:
            self._spent += start_seconds  # the budget runs from the first step of the first launch
        switches = [event["config"] for event in self.watch.this_lap("switch")]
        changes = [config for config in switches if config != "control"]
        active = switches[-1] if switches and switches[-1] != "control" else None
        # Under the user's own settings: the change that was on last; under a change: the one just before it.
        before = (switches[-2] if len(switches) > 1 and switches[-2] in changes else None) if active else (
            changes[-1] if changes else None)
        overran = self.watch.this_lap("overran")
        return launches.Launch(
            todo.kind, process.returncode, bool(self.watch.this_lap("end")), self._failure(process.returncode, why),
            bool(switches) or "errand" in self.watch.seen(), active,
            before,
            bool(overran), bool(overran) and not any(b["t"] > overran[-1]["t"] for b in self.watch.this_lap("block")),
            self._natural or bool(self.watch.this_lap("natural")),
            len(self.watch.this_lap("block")), first is not None, start_seconds, train_seconds, why,
        )

    def _bound_log(self) -> None:
        """Keep the end of what a script prints that prints without end."""
        with contextlib.suppress(OSError):
            size = self.log.stat().st_size
            if size > MOST_LOG:
                with self.log.open("r+b") as f:
                    f.seek(size - KEPT_LOG)
                    end = f.read()
                    f.truncate(0)
                with self.log.open("ab") as f:
                    f.write(f"[perfdoc left {size - len(end)} bytes out here]\n".encode() + end)

    def _failure(self, code: int, why: str) -> launches.Failure | None:
        """How a launch failed that was not ended from here."""
        if code == 0 or why or self.watch.this_lap("end"):
            return None
        events = self.watch.this_lap("failure")
        if not events:
            return launches.Failure(f"it ended with {endings.status(code)}", "")
        last = events[-1]
        return launches.Failure(last["type"], last["message"], last.get("site", ""), bool(last.get("guarded")))

    def _wait(self, process: subprocess.Popen[bytes], budget: float) -> str:
        """Wait for the command's end; end it where it does not end itself. Says why it was ended, if it was."""
        started, ended_at, errand_at = time.monotonic(), None, None
        alive = Heartbeat(self.folder, self.watch.lap, budget, self.options.wait, self.show)
        strangers = Unwatched()
        while True:
            try:
                process.wait(POLL_SECONDS)
                return ""
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt as error:
                self._interrupt(process, error)
                return "interrupted"
            try:
                for event in self.watch.news():
                    self.show(event)
                self.machine.sample(process.pid)
                self._bound_log()
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
                if "optimizer step" not in seen and any(self.folder.glob("inject-error-*")):
                    _terminate(process.pid)  # without perfdoc in it nothing would be measured, and nothing guarded
                    return ""
                if "optimizer step" not in seen:
                    # Importing torch takes a minute on a cold disk: where perfdoc is in, it will be heard of.
                    watched = {int(event["pid"]) for kind in ("entered", "process") for event in self.watch.this_lap(kind)}
                    for event in strangers.look(processes_of_run(str(self.folder)), watched):
                        self._write(**event)
                        self.show(event)
                    if strangers.hopeless(watched):
                        _terminate(process.pid)
                        return "unwatched"
                trouble = "stuck" if self.watch.this_lap("stuck") else alive.trouble(
                    process.pid, seen, bool(self.watch.this_lap("loop")))
                if trouble and ended_at is None and errand_at is None:
                    _terminate(process.pid)
                    return trouble
            except KeyboardInterrupt as error:
                self._interrupt(process, error)
                return "interrupted"

    def _interrupt(self, process: subprocess.Popen[bytes], error: KeyboardInterrupt) -> None:
        """Ctrl-C went to the script too (same terminal): give it a moment, then end it. Other signals came to us alone."""
        self.interrupted = error
        try:
            process.wait(0.1 if isinstance(error, signals.Told) else 1.0)
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

    def _finish(self, started: float, done: list[launches.Launch]) -> captures.Capture:
        outcome = endings.outcome(
            done, self.interrupted, self.watch.seen(), captures.read_events(self.folder), self.folder, self.options.wait,
            self.options.errand_limit,
        )
        self._clear(launches.own_failure(done) if done else None)
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
            "laps": len(done),
            **outcome,
        }
        capture = captures.from_events(events, run, self.machine.describe())
        capture.environment["variables"] = variables.record(os.environ)
        capture.measurements += self.machine.measurements()
        if self.options.guard:
            capture.guard["moved"] = tidy(events, target=self.folder / "unguarded", folder=self.folder)
            capture.guard["left"] = Listing(Path.cwd(), self.folder.parent.parent).new(self._files)[:MOST_LEFT]
        if self._git is not None:
            now = git_status(Path.cwd())
            capture.guard["git_changed"] = sorted((now or set()) - self._git)
        for name in ("history.json", "settings.json"):
            (self.folder / name).unlink(missing_ok=True)
        for pattern in ("leader-*", "schedule-*", "beat-*"):
            for file in self.folder.glob(pattern):
                file.unlink()
        capture.write(self.folder)
        return capture


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
