"""Runs the user's command with perfdoc brought in through the environment, and watches over it from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

import perfdoc
from perfdoc.capture import document as captures
from perfdoc.capture import events, incidents
from perfdoc.capture.event import Event, last, of
from perfdoc.capture.event_lines import to_entry
from perfdoc.capture.run import Run
from perfdoc.capture.settings import BenchAsked, MemoryAsked, Settings
from perfdoc.core.errors import PerfdocError
from perfdoc.core.registry import packages
from perfdoc.core.typed_json import to_json
from perfdoc.launch import endings, launches, processes, signals, variables
from perfdoc.launch.environment import environment
from perfdoc.launch.event_reader import EventReader
from perfdoc.launch.heartbeat import Heartbeat
from perfdoc.launch.host_monitor import HostMonitor
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
    """Module whose ``Task`` is run in the loop in place of an experiment."""
    bench: BenchAsked | None = None
    memory: MemoryAsked | None = None
    loader_after: float | None = None
    """Seconds after which an errand takes the loader that is iterated, though nothing trains."""
    errand_limit: float | None = None
    """Seconds after which an errand is ended from outside: a data set that hangs must not hang perfdoc."""
    watch: bool = False
    """Whether the whole run is looked at: nothing is switched, kept from the user's files, or ended."""


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


Show = Callable[[Event], None]
"""Called with every event of interest, for the progress bar."""


class Scan:
    """One scan: laps of the user's command until the questions are settled or the budget is spent."""

    def __init__(self, options: Options, show: Show) -> None:
        self.options = options
        self.show = show
        self.folder = make_run_folder(options)
        self.reader = EventReader(self.folder)
        self.monitor = HostMonitor()
        self.interrupted: KeyboardInterrupt | None = None
        self._spent = 0.0
        self._excluded: dict[str, launches.Failure | None] = {}
        self._natural = False
        self._git = None if options.watch else git_status(Path.cwd())
        self._files = Listing(Path.cwd(), self.folder.parent.parent)

    def run(self) -> captures.Capture:
        """Run all launches and write the capture, whatever happens in between."""
        started = time.time()
        done: list[launches.Launch] = []
        todo = launches.Next("start")
        try:
            with signals.as_interrupts():
                while todo.do == "start":
                    self.reader.lap = len(done)
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
                        self.show(incidents.Relaunched(why=todo.why))
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
        return {part for event in of(events.BlockEnded, self.reader.events) for part in event.record.arm.split("+")}

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
            self._write(events.ArmFailed(arm=arm, error=what))

    def _clear(self, failure: launches.Failure | None) -> None:
        """Changes that were left out for a failure like this one were not what caused it."""
        for arm in [arm for arm, why in self._excluded.items() if failure is not None and failure.like(why)]:
            del self._excluded[arm]
            self._write(events.ArmCleared(arm=arm))

    def _write(self, event: Event) -> None:
        """Keep an event of the parent's own."""
        event.t, event.lap = time.time(), self.reader.lap
        with contextlib.suppress(OSError), (self.folder / "events-parent.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(to_entry(event)) + "\n")

    def _settings(self, todo: launches.Next, done: Sequence[launches.Launch]) -> None:
        history = None
        blocks = [event.record for event in of(events.BlockEnded, captures.read_events(self.folder))]
        if blocks:
            history = str(self.folder / "history.json")
            Path(history).write_text(json.dumps(to_json(blocks)), encoding="utf-8")
        seed = self.options.seed if self.options.seed is not None else secrets.randbelow(2**31)
        self.options.seed = seed
        check = todo.kind == "check"
        shortest = min((launch.train_seconds for launch in done if launch.stepped and not launch.why), default=None)
        progress = last(events.Progress, self.reader.events)
        settings = Settings(
            watch=self.options.watch, lap=self.reader.lap, parent=os.getpid(),
            budget=todo.seconds if check else self.options.budget,
            spent=0.0 if check else self._spent, guard=self.options.guard, protect=[os.getcwd()],
            experiment=self.options.experiment and not check, only=list(self.options.only), packages=packages(),
            smallest_effect=self.options.smallest_effect, seed=seed, history=history,
            verdicts=dict(progress.settled) if progress else {}, excluded=list(self._excluded),
            allow_numerics="numerics" in self.options.allow, natural=self._natural,
            pausing=not any(isinstance(event, events.Woken | events.Stuck) for event in self.reader.events),
            trained_seconds=shortest, errand="" if check else self.options.errand, loader_after=self.options.loader_after,
            bench=self.options.bench, memory=self.options.memory,
        )
        (self.folder / "settings.json").write_text(json.dumps(to_json(settings)), encoding="utf-8")

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
                env = environment(self.folder, trackers=self.options.watch)
                process = subprocess.Popen(self.options.command, env=env, stdout=out, stderr=subprocess.STDOUT if out else None)
            except OSError as error:
                raise PerfdocError(f"cannot run {self.options.command[0]}: {error.strerror or error}") from None
            why = self._wait(process, todo.seconds if todo.kind == "check" else self.options.budget)
        if not self.options.watch:
            self._end_everything(process)
        for event in self.reader.news():
            self.show(event)
        first = self.reader.seen().get("optimizer step")
        start_seconds, train_seconds = time.time() - began, 0.0
        if first is not None:
            latest = max(event.t for event in self.reader.this_lap(Event))
            late = sum(event.seconds for event in self.reader.this_lap(events.LateStart))
            start_seconds, train_seconds = first.t + late - began, latest - first.t - late
            self._spent += train_seconds
        if done:
            self._spent += start_seconds  # the budget runs from the first step of the first launch
        switches = [event.config for event in self.reader.this_lap(events.Switched)]
        changes = [config for config in switches if config != "control"]
        active = switches[-1] if switches and switches[-1] != "control" else None
        # Under the user's own settings: the change that was on last; under a change: the one just before it.
        before = (switches[-2] if len(switches) > 1 and switches[-2] in changes else None) if active else (
            changes[-1] if changes else None)
        overran, blocks = self.reader.this_lap(events.Overran), self.reader.this_lap(events.BlockEnded)
        return launches.Launch(
            todo.kind, process.returncode, bool(self.reader.this_lap(events.End)), self._failure(process.returncode, why),
            bool(switches) or "errand" in self.reader.seen(), active,
            before,
            bool(overran), bool(overran) and not any(block.t > overran[-1].t for block in blocks),
            self._natural or bool(self.reader.this_lap(events.Natural)),
            len(blocks), first is not None, start_seconds, train_seconds, why,
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
        if code == 0 or why or self.reader.this_lap(events.End):
            return None
        failures = self.reader.this_lap(events.ScriptFailed)
        if not failures:
            return launches.Failure(f"it ended with {endings.status(code)}", "")
        failed = failures[-1].record
        return launches.Failure(failed.type, failed.message, failed.site, failed.guarded, failed.inside)

    def _wait(self, process: subprocess.Popen[bytes], budget: float) -> str:
        """Wait for the command's end; end it where it does not end itself. Says why it was ended, if it was."""
        started, ended_at, errand_at = time.monotonic(), None, None
        alive = Heartbeat(self.folder, self.reader.lap, budget, self.options.wait, self.show)
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
                for event in self.reader.news():
                    self.show(event)
                self.monitor.sample(process.pid)
                self._bound_log()
                if self.options.watch:  # whatever the script does, it is its own affair
                    continue
                now = time.monotonic()
                if ended_at is None and self.reader.this_lap(events.End):
                    ended_at = now
                if ended_at is not None and now - ended_at > END_GRACE_SECONDS:
                    processes.terminate(process.pid)
                    return "did not end by itself"
                seen = self.reader.seen()
                if errand_at is None and "errand" in seen:
                    errand_at = now
                limit = self.options.errand_limit
                if errand_at is not None and limit is not None and ended_at is None and now - errand_at > limit:
                    processes.terminate(process.pid)
                    return "hung"
                if not {"optimizer step", "errand"} & set(seen) and now - started > self.options.wait:
                    processes.terminate(process.pid)
                    return "never trained"
                if "optimizer step" not in seen and any(self.folder.glob("inject-error-*")):
                    processes.terminate(process.pid)  # without perfdoc in it nothing would be measured, and nothing guarded
                    return ""
                if "optimizer step" not in seen:
                    # Importing torch takes a minute on a cold disk: where perfdoc is in, it will be heard of.
                    watched = {event.pid for event in self.reader.this_lap(events.Entered)}
                    watched |= {event.record.pid for event in self.reader.this_lap(events.ProcessSeen)}
                    for stranger in strangers.look(processes.of_run(str(self.folder)), watched):
                        self._write(stranger)
                        self.show(stranger)
                    if strangers.hopeless(watched):
                        processes.terminate(process.pid)
                        return "unwatched"
                trouble = "stuck" if self.reader.this_lap(events.Stuck) else alive.trouble(
                    process.pid, seen, bool(self.reader.this_lap(events.LoopFound)))
                if trouble and ended_at is None and errand_at is None:
                    processes.terminate(process.pid)
                    return trouble
            except KeyboardInterrupt as error:
                self._interrupt(process, error)
                return "interrupted"

    def _interrupt(self, process: subprocess.Popen[bytes], error: KeyboardInterrupt) -> None:
        """Ctrl-C went to the script too (same terminal): give it a moment, then end it. Other signals came to us alone."""
        self.interrupted = error
        if self.options.watch:
            self._let_end(process, error)
            return
        try:
            process.wait(0.1 if isinstance(error, signals.Told) else 1.0)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(INTERRUPT_GRACE_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                processes.terminate(process.pid)

    def _let_end(self, process: subprocess.Popen[bytes], error: KeyboardInterrupt) -> None:
        """A script that is only watched ends as it would alone; a checkpoint may take its time. A second Ctrl-C ends it."""
        if isinstance(error, signals.Told):  # it came to us alone
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(error.number)
        try:
            process.wait()
        except KeyboardInterrupt:
            processes.terminate(process.pid)

    def _end_everything(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing that this run started is alive afterwards, and none of its shared memory is left."""
        pids = {process.pid}
        for other in processes.of_run(str(self.folder)):
            pids.add(other.pid)
            with contextlib.suppress(psutil.Error):
                other.terminate()
        gone_by = time.monotonic() + 5
        while list(processes.of_run(str(self.folder))) and time.monotonic() < gone_by:
            time.sleep(0.05)
        for other in processes.of_run(str(self.folder)):
            with contextlib.suppress(psutil.Error):
                other.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        pids |= {event.record.pid for event in self.reader.this_lap(events.ProcessSeen)}
        processes.remove_shared_memory(pids)

    def _finish(self, started: float, done: list[launches.Launch]) -> captures.Capture:
        ending = endings.outcome(
            done, self.interrupted, self.reader.seen(), captures.read_events(self.folder), self.folder, self.options.wait,
            self.options.errand_limit, self.options.watch,
        )
        self._clear(launches.own_failure(done) if done else None)
        written = captures.read_events(self.folder)
        run = Run(
            id=self.folder.name, command=self.options.command, directory=os.getcwd(),
            started=datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
            seconds=round(time.time() - started, 2), perfdoc=perfdoc.__version__,
            budget=None if self.options.watch else self.options.budget,
            smallest_effect=self.options.smallest_effect, seed=self.options.seed, laps=len(done), outcome=ending.outcome,
            reason=ending.reason, exit_code=ending.exit_code,
        )
        capture = captures.from_events(written, run, self.monitor.describe())
        capture.environment.variables = variables.record(os.environ)
        capture.measurements += self.monitor.measurements()
        if self.options.guard:
            capture.guard.moved = tidy(written, target=self.folder / "unguarded", folder=self.folder)
            capture.guard.left = Listing(Path.cwd(), self.folder.parent.parent).new(self._files)[:MOST_LEFT]
        if self._git is not None:
            now = git_status(Path.cwd())
            capture.guard.git_changed = sorted((now or set()) - self._git)
        for name in ("history.json", "settings.json"):
            (self.folder / name).unlink(missing_ok=True)
        for pattern in ("leader-*", "schedule-*", "beat-*"):
            for file in self.folder.glob(pattern):
                file.unlink()
        capture.write(self.folder)
        return capture
