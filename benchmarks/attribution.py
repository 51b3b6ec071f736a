"""Is the time of a step said to be spent where it is? Against a loop in which it is known line by line.

    python benchmarks/attribution.py [--scenes main loader worker] [--options="--clock-only"] [--budget 20] [--json FILE]

`workloads/planted.py` waits and computes for a known share of every step: in Python, in one long native call that lets no
other thread run, in a forward (whose backward takes as long again), in the data set's `__getitem__`, in `collate_fn` and in a
sampler, the last three with and without a worker. Every place measures itself while the loop runs; its share of a step is that
time over the time of all steps. In the scene `worker` the worker is the slower side and a step takes as long as a batch of
its, so that shares of a step and of the worker's time are the same; the sampler runs in the training process, beside it.

For each scene `perfdoc scan --json` watches the script, by default with --clock-only: nothing is switched, so that the shares
stay what they are. Then, where py-spy is installed and may look into a process that it started, `py-spy record --format raw`
does the same. It tells nothing of a backward at the forward's line: its error is that of the forward alone. A row is a place:
its true share, what was said, and by how many points that is off. The truth is of the same run as what was said.

Exit code 1 where something is off by more than 3 points or not said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cause_said
from cause_case import Place
from tabulate import tabulate

SCRIPT = Path(__file__).parent / "workloads" / "planted.py"
SCENES = {
    "main": ("python", "native", "forward"),
    "loader": ("item", "collate", "sampler"),
    "worker": ("item", "collate", "store", "sampler"),
}
WORDS = {
    "python": "Python in the training process", "native": "a native call that holds the lock",
    "forward": "a forward and its backward", "item": "Python in __getitem__", "store": "a native call in __getitem__",
    "collate": "a native call in collate_fn", "sampler": "Python in a sampler",
}
CLOSE = 0.03
"""Maximum difference of a share, said against true."""
RATE = 200
"""Samples a second that py-spy takes: some thousand in all, so that a share of 20% is known to half a point."""
START_SECONDS = 8.0
"""Time for py-spy's script to reach its loop."""
PLANTED = re.compile(r"# planted: (\w+)")
FRAME = re.compile(r"(\S+) \((?:.*/)?planted\.py:(\d+)\)$")
"""A frame of the script as py-spy writes it."""
LOOP, WORKER = "loop", "_worker_loop"
"""Functions on the stack of a sample that counts: the loop's, and torch's own of a worker."""


def places() -> dict[str, Place]:
    """The lines of every planted place, by its name: the marked one and the one below it."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    return {found[1]: Place(SCRIPT.name, number, number + 1)
            for number, line in enumerate(lines, 1) if (found := PLANTED.search(line))}


@dataclass
class Row:
    """One place in one scene. Shares are those of a step."""

    scene: str
    place: str
    true: float
    said: float | None
    spied_true: float | None = None
    """The true share in the run that py-spy watched, of what it can tell: without the backward."""
    spied: float | None = None

    @property
    def off(self) -> float | None:
        return None if self.said is None else self.said - self.true

    def line(self) -> tuple[str, ...]:
        spied = None if self.spied is None or self.spied_true is None else self.spied - self.spied_true
        return (self.scene, WORDS[self.place], f"{self.true:.1%}", *_shown(self.said, self.off), *_shown(self.spied, spied))


def _shown(share: float | None, off: float | None) -> tuple[str, str]:
    return ("-", "-") if share is None or off is None else (f"{share:.1%}", f"{100 * off:+.1f}")


HEADS = ("scene", "planted", "true share", "perfdoc says", "points off", "py-spy says", "points off")


def shares(truth: Mapping[str, Any], backward: bool) -> dict[str, float]:
    """Share of a step by place; the backward counts to its forward's line where it is asked for."""
    found = {name: seconds / truth["seconds"] for name, seconds in truth["places"].items()}
    found["forward"] += found["backward"] if backward else 0.0
    return found


def watched(scene: str, options: list[str], budget: float, folder: Path) -> tuple[dict[str, float], dict[str, float | None]]:
    """The true shares of a scan's run, and those that perfdoc says of the places. Raises SystemExit where the scan fails."""
    truth, work = folder / "truth.json", folder / "work"
    work.mkdir()
    shutil.copy(SCRIPT, work)
    ran = subprocess.run(
        [sys.executable, "-m", "perfdoc", "scan", "--json", "--budget", f"{budget:g}", *options, SCRIPT.name, scene,
         "--truth", str(truth)],
        capture_output=True, text=True, check=False, cwd=work, stdin=subprocess.DEVNULL,
    )
    if ran.returncode:
        raise SystemExit(f"{scene}: the scan failed\n{ran.stderr[-2000:]}")
    found = cause_said.read(json.loads(ran.stdout), "")
    said: dict[str, float | None] = {}
    for name, place in places().items():
        of_place = [line.share for line in found.lines if line.share is not None and line.place.meets([place])]
        said[name] = sum(of_place) if of_place else None
    return shares(json.loads(truth.read_text()), backward=True), said


def spied(scene: str, seconds: float, folder: Path) -> tuple[dict[str, float], dict[str, float]] | str:
    """The true shares of a run that py-spy watches, and those that its samples say; or why there are none."""
    spy = shutil.which("py-spy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if spy is None:
        return "py-spy is not installed"
    truth, out = folder / "truth.json", folder / "stacks"
    command = [spy, "record", "--format", "raw", "--rate", str(RATE), "--duration", f"{START_SECONDS + seconds:g}", "--idle",
               "--subprocesses", "--output", str(out), "--", sys.executable, str(SCRIPT), scene, "--truth", str(truth)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        try:
            _, complaint = process.communicate(timeout=2 * (START_SECONDS + seconds) + 30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the script goes on where py-spy has ended
    if process.returncode or not out.exists() or not truth.exists():
        return f"py-spy could not watch it: {(complaint.strip().splitlines() or ['no stacks'])[-1][:120]}"
    return shares(json.loads(truth.read_text()), backward=False), counted(out.read_text().splitlines())


def counted(stacks: list[str]) -> dict[str, float]:
    """Share of the samples in each place, of those in the training loop; of a worker's where the place lies there."""
    totals = {LOOP: 0, WORKER: 0}
    in_place: dict[tuple[str, str], int] = {}
    known = places()
    for function, number, times in _samples(stacks):
        totals[function] += times
        if number is None:
            continue
        for name, place in known.items():
            if place.first <= number <= place.last:
                in_place[name, function] = in_place.get((name, function), 0) + times
    return {name: max(in_place.get((name, function), 0) / max(1, total) for function, total in totals.items())
            for name in known}


def _samples(stacks: list[str]) -> Iterator[tuple[str, int | None, int]]:
    """Of each stack: where it was taken, the innermost line of the script, and how often."""
    for stack in stacks:
        frames, _, times = stack.rpartition(" ")
        names = [frame.partition(" ")[0] for frame in frames.split(";")]
        function = WORKER if WORKER in names else LOOP if LOOP in names else None
        if function is None:
            continue
        lines = [int(found[2]) for frame in frames.split(";") if (found := FRAME.match(frame))
                 and (function == LOOP or names.index(WORKER) < frames.split(";").index(frame))]
        yield function, lines[-1] if lines else None, int(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="*", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--options", default="--clock-only", help="of perfdoc scan, with spaces between")
    parser.add_argument("--budget", type=float, default=20, help="seconds of a scan, and of py-spy")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    args = parser.parse_args()
    rows, refused = [], ""
    for scene in args.scenes:
        with tempfile.TemporaryDirectory(prefix="perfdoc-planted-") as folder:
            true, said = watched(scene, args.options.split(), args.budget, Path(folder))
        time.sleep(1)
        with tempfile.TemporaryDirectory(prefix="perfdoc-planted-") as folder:
            spy = spied(scene, args.budget, Path(folder))
        for name in SCENES[scene]:
            rows.append(Row(scene, name, true[name], said.get(name)))
            if isinstance(spy, str):
                refused = spy
            else:
                rows[-1].spied_true, rows[-1].spied = spy[0][name], spy[1][name]
            print(rows[-1].line(), file=sys.stderr, flush=True)
    print(tabulate([row.line() for row in rows], headers=HEADS))
    off = [abs(row.off) for row in rows if row.off is not None]
    print(f"\nsaid of {len(off)} of {len(rows)} places" + (f", off by {100 * max(off):.1f} points at most" if off else ""))
    if refused:
        print(refused)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if len(off) < len(rows) or max(off) > CLOSE:
        sys.exit(1)


if __name__ == "__main__":
    main()
