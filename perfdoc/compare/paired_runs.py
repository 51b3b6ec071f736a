"""Two versions of a training script as processes of their own that take turns: the ratio of their speeds, measured.

Both are started; then they alternate, block by block, in random order: the one that does not run stands still (SIGSTOP).
So both see the machine of the same seconds, which two processes that run one after the other do not. As two processes of the
same code differ by a little all their life (where memory lies, which cores), both are started anew a few times: the interval
is of the pairs of processes, not of the blocks alone.

What is compared is the ordinary step: what happens once in some dozen blocks (a checkpoint, a log) is in few of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from perfdoc.capture import events, incidents
from perfdoc.capture.event import last
from perfdoc.capture.records import Counts
from perfdoc.capture.settings import Settings
from perfdoc.compare.ratio import ROUNDS, Ratio, load_taken_out, ratio_of, worn_out
from perfdoc.core.errors import PerfdocError
from perfdoc.core.parent_death import die_with_parent
from perfdoc.core.registry import packages
from perfdoc.core.typed_json import to_json
from perfdoc.launch import processes
from perfdoc.launch.environment import environment
from perfdoc.launch.event_reader import EventReader
from perfdoc.launch.leftovers import tidy

BLOCK = 0.2
"""Seconds of a block at least: short, as what others do lasts for seconds, and both sides should meet the same."""
LOOK_EVERY = 10.0
"""Seconds between two looks at least: each is one more chance to stop at a lucky one."""
FEWEST_STARTS = 2
FIRST_SHARE = 0.5
"""Share of the time that is left which a pair of processes may take while there must be another one, at most."""
LEAST_SHARE = 0.2
"""Share of it below which the first pair takes all: there is no room for two."""
WORTH_A_START = 2.0
"""Times what a start takes that must be left for another pair of processes: it shall be measured as long as it starts."""
SHOWN_EVERY = 4
"""Rounds between two figures in the progress line."""
POLL = 0.005
PATIENCE = 10.0
"""Times a block's usual length after which a side that does not end its block is taken to hang."""


NOT_COUNTED = Counts([], [], None, None, [])


@dataclass
class Side:
    """One of the two versions."""

    name: str
    command: list[str]
    directory: Path
    home: Path
    """Root of the version's files."""
    protect: list[Path] = field(default_factory=list)
    """Folders besides in which nothing may be written."""
    python_path: list[str] = field(default_factory=list)
    """Entries of ``PYTHONPATH`` that come before the user's own."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables besides the user's own."""
    counts: Counts = NOT_COUNTED
    """Syncs, graph breaks, bytes given to the model a step (from the first start)."""
    paces: list[float] = field(default_factory=list)
    """Seconds a step of every block."""
    faults: list[float] = field(default_factory=list)
    """Page faults a step of every block that were answered without reading a disk: memory that the process was given anew."""
    log: Path | None = None


def first_end(now: float, end: float, start: float) -> float:
    """When the first pair of processes must make room for another one, whose ``start`` takes so long; all are seconds."""
    left = end - now
    share = min(FIRST_SHARE, 1 - 1.1 * WORTH_A_START * start / left) if left > 0 else 0.0
    return now + left * (share if share >= LEAST_SHARE else 1.0)


Progress = Callable[[str, "Ratio | None", float], None]
"""Called with what is done, the ratio so far and the seconds left."""


class Alternation:
    """Runs both sides until ``decided(ratio)`` or the budget is spent; the budget begins when both have started first.

    ``folder``: where logs and events go. ``wait``: seconds a side may take to its first steps. Raises PerfdocError with exit
    code 4 where a side fails, 3 where it ends before anything was measured.
    """

    def __init__(self, first: Side, second: Side, folder: Path, budget: float, wait: float = 300.0, seed: int = 0,
                 progress: Progress = lambda what, ratio, left: None, block: float = BLOCK,
                 check: Callable[[Side], None] = lambda side: None) -> None:
        self.sides = (first, second)
        self.folder = folder
        self.budget = budget
        self.wait = wait
        self.block = block
        self.rounds: list[list[tuple[float, float]]] = []
        """Log ratio of each round, and the difference in others' load, by pair of processes."""
        self._progress = progress
        self._check = check
        self._random = random.Random(seed)
        self._end = math.inf
        self._shown: Ratio | None = None
        self.seconds_to_start = 0.0

    def run(self, decided: Callable[[Ratio], bool]) -> Ratio:
        """Alternate; nothing that was started is alive when it returns or raises."""
        number = 0
        while True:
            runners = []
            began = time.monotonic()
            try:
                for side in self._random.sample(self.sides, 2):
                    runners.append(_Runner(side, self.folder / f"{side.name}-{number}", self.block))
                self._start(runners, check=not number)
                if not number:
                    self._end = time.monotonic() + self.budget
                    self.seconds_to_start = time.monotonic() - began
                if number + 1 < FEWEST_STARTS:
                    self._rounds(runners, first_end(time.monotonic(), self._end, self.seconds_to_start), None)
                else:
                    self._rounds(runners, self._end, decided)
            finally:
                for runner in runners:
                    runner.end()
                for runner in runners:  # both are dead: neither needs what the other one made
                    runner.reader.news()
                    tidy(runner.reader.events, target=self.folder / "leftovers", folder=runner.folder)
            number += 1
            ratio = self._ratio()
            if ratio is None:
                raise PerfdocError("the script ended before anything could be measured: let it train longer", 3)
            if (number >= FEWEST_STARTS and decided(ratio)) or self._left() < WORTH_A_START * self.seconds_to_start:
                return ratio

    def _start(self, runners: Sequence[_Runner], check: bool) -> None:
        """Wait for the first standstill of both. They import and build side by side, but train one at a time.

        Two processes that compute on every core wait in each operator for threads that do not run: their first steps take ten
        times as long as one after the other.
        """

        first, second = runners

        def hold() -> None:
            if first.trains() or second.trains():
                second.hold()

        for runner, meanwhile in ((first, hold), (second, lambda: None)):
            self._progress(f"starting {runner.side.name}", self._ratio(), self._left())
            runner.until_standing(self.wait, meanwhile)
            if check:
                self._check(runner.side)

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _ratio(self) -> Ratio | None:
        return ratio_of(load_taken_out(self.rounds)) if self.rounds and self.rounds[0] else None

    def _rounds(self, runners: Sequence[_Runner], end: float, decided: Callable[[Ratio], bool] | None) -> None:
        """Blocks of both in turn, until more of them would tell little, or ``end``; or a look finds the ratio decided."""
        logs: list[tuple[float, float]] = []
        self.rounds.append(logs)
        usual = 0.0
        looked, seen = time.monotonic(), 0
        while not worn_out(load_taken_out([logs])[0]) and (not logs or time.monotonic() < end):
            if decided is not None and len(logs) >= seen + ROUNDS and time.monotonic() >= looked + LOOK_EVERY:
                looked, seen = time.monotonic(), len(logs)
                ratio = self._ratio()
                if ratio is not None and decided(ratio):
                    return
            found: dict[str, tuple[float, float]] = {}
            for runner in self._random.sample(list(runners), 2):
                self._progress(f"running {runner.side.name}", self._shown, self._left())
                pace = runner.block(max(self.wait, PATIENCE * max(usual, self.block)))
                if pace is None:  # it ended by itself
                    if not logs:
                        self.rounds.pop()
                    return
                usual = max(usual, pace[1])
                found[runner.side.name] = pace[0], pace[2]
                runner.side.paces.append(pace[0])
            (first, load), (second, other_load) = (found[side.name] for side in self.sides)
            logs.append((math.log(second / first), other_load - load))
            if len(logs) % SHOWN_EVERY == 0:
                self._shown = self._ratio()


class _Runner:
    """One process of a side."""

    def __init__(self, side: Side, folder: Path, block: float) -> None:
        self.side = side
        self.folder = folder
        self._least = block
        folder.mkdir(parents=True)
        settings = Settings(
            budget=1e9, protect=[str(side.directory), str(side.home), *map(str, side.protect)], experiment=False,
            packages=packages(), seed=0, history=None, errand="perfdoc.compare.task", block=block, home=str(side.home),
            dies_with_parent=True,
        )
        (folder / "settings.json").write_text(json.dumps(to_json(settings)), encoding="utf-8")
        self.reader = EventReader(folder)
        side.log = folder / "output.log"
        env = environment(folder, side.python_path) | side.variables
        with side.log.open("wb") as out:
            try:
                self.process = subprocess.Popen(
                    side.command, cwd=side.directory, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                raise PerfdocError(f"cannot run {side.command[0]}: {error.strerror or error}", 4) from None
        self._standings = 0
        self._held: list[psutil.Process] = []
        """Processes that were stopped before it stood still by itself."""
        self._members: list[psutil.Process] = []
        """Its processes when it last stood still: none comes or goes until it is woken. To look for them takes long."""

    def trains(self) -> bool:
        """Whether the first batch is asked for, or training was seen to begin in another way."""
        self.reader.news()
        return any(what != "torch" for what in self.reader.seen())

    def hold(self) -> None:
        """Let it stand still where it is, until it is waited for."""
        if not self._held:
            self._held = self._tree()
            for process in self._held:
                with contextlib.suppress(psutil.Error):
                    process.suspend()

    def until_standing(self, wait: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for the first standstill, and call ``meanwhile`` again and again until then.

        Raises PerfdocError where the script fails, or never trains.
        """
        for process in self._held:  # one that stands by itself already does a block more than was asked for
            with contextlib.suppress(psutil.Error):
                process.resume()
        if not self._stands(wait, meanwhile):
            raise PerfdocError(
                f"{self.side.name}: the script ended before its loop was known: let it train longer (more epochs or data)", 4)
        counted = self.reader.this_lap(events.Counted)
        if counted and self.side.counts is NOT_COUNTED:
            self.side.counts = counted[-1].record

    def block(self, patience: float) -> tuple[float, float, float] | None:
        """Wake it up for a block: seconds a step, those that the block took, and the cores that others used meanwhile.

        None where the script ended by itself.
        """
        began, others = time.monotonic(), self._others()
        self._wake()
        # No block ends before. Looking whether it has takes a core's time, which only a side that computes on all cores lacks.
        time.sleep(self._least)
        if not self._stands(patience):
            return None
        pace = self.reader.this_lap(events.PaceMeasured)[-1]
        self.side.faults.append(pace.faults / pace.steps)
        took = time.monotonic() - began
        return pace.seconds / pace.steps, took, max(0.0, self._others() - others) / took

    def _others(self) -> float:
        """CPU seconds so far of all that is not this process, its children and perfdoc, what the hypervisor took included."""
        times = psutil.cpu_times()
        busy = times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
        ours = 0.0
        for process in [*self._members, psutil.Process()]:
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                ours += used.user + used.system
        return float(busy - ours)

    def _wake(self) -> None:
        for process in self._members:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)

    def _tree(self) -> list[psutil.Process]:
        """Children first."""
        try:
            whole = psutil.Process(self.process.pid)
            return [*whole.children(recursive=True), whole]
        except psutil.Error:
            return []

    def _stands(self, patience: float, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Wait until it stands still; False where it ended instead. Raises PerfdocError where it failed or hangs."""
        until = time.monotonic() + patience
        while True:
            code = self.process.poll()
            self.reader.news()
            standing = self.reader.this_lap(events.Standing)
            if len(standing) > self._standings and _is_stopped(self._leader()):
                self._standings = len(standing)
                self._members = self._tree()
                for process in self._members:  # helpers that the process itself does not know of
                    with contextlib.suppress(psutil.Error):
                        process.suspend()
                return True
            if code == 0:
                return False
            if code is not None:
                raise PerfdocError(f"{self.side.name}: {self._failure(code)}", 4)
            meanwhile()
            if time.monotonic() > until:
                failed = [event.error for event in self.reader.this_lap(incidents.InjectFailed)]
                what = f"perfdoc could not get into the script: {failed[-1].strip()[-300:]}" if failed else (
                    f"no training steps came for {patience:.0f} s" + ("" if self._standings else " (--wait gives it more)"))
                raise PerfdocError(f"{self.side.name}: {what}; its output: {os.path.relpath(self.side.log or '')}", 4)
            time.sleep(POLL)

    def _leader(self) -> int:
        """Process id of the process that trains."""
        found = [int(event.file.split("-")[2]) for event in self.reader.this_lap(events.Standing)]
        return found[-1] if found else self.process.pid

    def _failure(self, code: int) -> str:
        failure = last(events.ScriptFailed, self.reader.events)
        what = f"{failure.record.type}: {failure.record.message}" if failure else f"it ended with exit code {code}"
        if "out of memory" in what.lower() or code == -signal.SIGKILL:
            what += " (both versions are in memory at once: is there room for two?)"
        if "address already in use" in what.lower():
            what += " (both versions run at once: a fixed port, say MASTER_PORT, must be free for each)"
        lines = (self.side.log.read_text(errors="replace").strip().splitlines() if self.side.log else [])[-12:]
        shown = "\n".join(f"    {line}" for line in lines)
        return f"the script fails: {what}\n{shown}"

    def end(self) -> None:
        """Kill it, and all that it started, also where it died itself and left workers standing."""
        tree = [*self._tree(), *processes.of_run(str(self.folder))]
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        psutil.wait_procs(tree, timeout=3)
        processes.remove_shared_memory({process.pid for process in tree} | {self.process.pid})
        for name in ("redirected", "trackers"):  # checkpoints of runs that are thrown away
            shutil.rmtree(self.folder / name, ignore_errors=True)


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
