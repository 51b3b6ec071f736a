"""What a cause really costs: ``train.py`` against ``fixed.py`` of the same case, measured, in the way that fits its kind.

* ``steps``: ordinary steps, both scripts in turns of 0.2 s, as ``perfdoc verify`` does it.
* ``epochs``: whole epochs, their turns included. The scripts run alternately as plain processes, several times each; the time
  of a batch is that of so many whole epochs, divided by their batches.
* ``late``: the same for scripts that grow slow, without the batches before they did.
* ``memory``: MiB that a batch adds to the private memory (USS) of the training process or of its workers, and besides the
  time of a batch, which is not what matters there.

The gain is the time of a batch in ``train.py`` over that in ``fixed.py``. The share of the cause is what the fix takes away:
1 - 1/gain.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from cause_case import Case

from perfdoc.compare.paired_runs import Alternation, Side
from perfdoc.core import stats

COUNTED = Path(__file__).parent / "counted.py"
TURNS = 3
"""How often each script is started where whole processes alternate."""
START_SECONDS = 120.0
"""Maximum time to the first batch, because data is made and read before it."""
SETTLED = 5
"""Batches after which a process is taken to run evenly."""
LOOK_SECONDS = 0.5
"""Between two looks at a process's memory."""
KNOWN = 1.02
"""End of the ratio's interval over the ratio from which more turns would tell little."""
MIB = 2.0**20


@dataclass(frozen=True)
class Truth:
    """What the fix brings. Ratios are times of ``train.py`` over times of ``fixed.py``; the interval is the 95% one."""

    way: str
    gain: float
    low: float | None
    """None where the two ran once each: then nothing is known of how far another time would be off."""
    high: float | None
    slow: float
    """Seconds a batch of ``train.py``."""
    fixed: float
    grows: float | None = None
    """MiB that a batch adds, in ``train.py``."""
    fixed_grows: float | None = None

    @property
    def share(self) -> float:
        """Of the time of a batch, what the fix takes away."""
        return 1 - 1 / self.gain

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def from_json(found: dict[str, Any]) -> Truth:
    return Truth(**{key: value for key, value in found.items() if key != "share"})


def prepare(case: Case, work: Path) -> None:
    """Let both scripts make their data in ``work``, a copy of the case. Raises SystemExit where one of them fails."""
    for script in sorted(work.glob("*.py")):
        if script.name in ("train.py", "fixed.py"):
            with _running(script, work, most=1) as (process, _):
                process.wait(START_SECONDS)
                if process.returncode:
                    raise SystemExit(f"{case.name}/{script.name} fails; run it by hand")


def measure(case: Case, work: Path, seconds: float) -> Truth:
    """Compare the two scripts in ``work``, which was prepared, for about ``seconds`` besides the starts."""
    if case.truth == "steps":
        return _steps(work, seconds)
    if case.truth == "memory":
        return _memory(case, work, seconds)
    return _processes(case, work, seconds)


def _steps(work: Path, seconds: float) -> Truth:
    fixed, slow = (Side(name, [sys.executable, f"{name}.py"], work, work) for name in ("fixed", "train"))
    with tempfile.TemporaryDirectory(prefix="perfdoc-truth-") as folder:
        ratio = Alternation(fixed, slow, Path(folder), seconds).run(lambda found: found.bounds()[1] / found.ratio < KNOWN)
    low, high = ratio.bounds()
    return Truth("steps", ratio.ratio, low, high, statistics.median(slow.paces), statistics.median(fixed.paces))


def _processes(case: Case, work: Path, seconds: float) -> Truth:
    each = seconds / (2 * TURNS)
    logs: list[float] = []
    paces: dict[str, list[float]] = {"train": [], "fixed": []}
    for turn in range(TURNS):
        for name in ("train", "fixed") if turn % 2 else ("fixed", "train"):
            paces[name].append(_pace(work / f"{name}.py", work, case, each))
        logs.append(math.log(paces["train"][-1] / paces["fixed"][-1]))
    return _of_pairs(case.truth, logs, paces["train"], paces["fixed"])


def _of_pairs(way: str, logs: Sequence[float], slow: Sequence[float], fixed: Sequence[float]) -> Truth:
    """The gain from pairs of processes, with Student's t between the pairs."""
    center = statistics.fmean(logs)
    half = stats.t_critical(0.05, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Truth(way, math.exp(center), math.exp(center - half), math.exp(center + half), statistics.median(slow),
                 statistics.median(fixed))


def _pace(script: Path, work: Path, case: Case, seconds: float) -> float:
    """Seconds a batch of a process of its own: of whole epochs, or of what comes after the early batches."""
    from_batch = case.after if case.truth == "late" else 0
    with _running(script, work) as (process, times):
        def long_enough() -> bool:
            found = times()
            if len(found) <= from_batch + SETTLED or found[-1] - found[from_batch] < seconds:
                return False
            return case.truth != "epochs" or len(found) > case.epoch

        _wait(process, long_enough, START_SECONDS + 60 * seconds)
        found = times()
    if case.truth == "epochs":
        batches = (len(found) - 1) // case.epoch * case.epoch
        return (found[batches] - found[0]) / batches
    return (found[-1] - found[from_batch]) / (len(found) - 1 - from_batch)


def _memory(case: Case, work: Path, seconds: float) -> Truth:
    grows, paces = {}, {}
    for name in ("train", "fixed"):
        with _running(work / f"{name}.py", work) as (process, times):
            looks = _looks(process, times, case.process, seconds / 2)
            found = times()
        grows[name] = slope(looks[len(looks) // 4:])
        paces[name] = (found[-1] - found[SETTLED]) / (len(found) - 1 - SETTLED)
    gain = paces["train"] / paces["fixed"]
    return Truth("memory", gain, None, None, paces["train"], paces["fixed"], grows["train"], grows["fixed"])


def _looks(process: subprocess.Popen[bytes], times: Callable[[], list[float]], which: str,
           seconds: float) -> list[tuple[float, float]]:
    """Batches so far and MiB, again and again for so long."""
    _wait(process, lambda: len(times()) > SETTLED, START_SECONDS)
    began, looks = time.monotonic(), []
    while time.monotonic() < began + seconds and process.poll() is None:
        time.sleep(LOOK_SECONDS)
        looks.append((float(len(times())), _private(process.pid, which)))
    return looks


def slope(looks: Sequence[tuple[float, float]]) -> float:
    """The median of what the second value grows by for one of the first (Theil and Sen): an epoch's end does not matter."""
    found = [(y - b) / (x - a) for place, (x, y) in enumerate(looks) for a, b in looks[:place] if x > a]
    return statistics.median(found) if found else math.nan


def _private(pid: int, process: str) -> float:
    """MiB that the process shares with no other one; ``workers``: of all its children together."""
    with contextlib.suppress(psutil.Error):
        main = psutil.Process(pid)
        members = main.children(recursive=True) if process == "workers" else [main]
        return float(sum(member.memory_full_info().uss for member in members)) / MIB
    return math.nan


@contextlib.contextmanager
def _running(script: Path, work: Path, most: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[float]]]]:
    """A script as a plain process, with the times of its batches so far; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="perfdoc-times-") as folder:
        file = Path(folder, "times")
        file.touch()
        process = subprocess.Popen(
            [sys.executable, str(COUNTED), str(file), str(most), script.name], cwd=work, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

        def times() -> list[float]:
            written = file.read_bytes()
            return [value for value, in struct.iter_unpack("d", written[: len(written) // 8 * 8])]

        try:
            yield process, times
        finally:
            members = []
            with contextlib.suppress(psutil.Error):
                whole = psutil.Process(process.pid)
                members = [whole, *whole.children(recursive=True)]
            for member in members:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], until: Callable[[], bool], patience: float) -> None:
    end = time.monotonic() + patience
    while not until():
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended after too few batches")
        if time.monotonic() > end:
            raise SystemExit(f"{process.args!r} had too few batches in {patience:.0f} s")
        time.sleep(0.05)
