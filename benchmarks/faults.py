"""What comes of a scan when the machine, a person or the script itself misbehaves: is anything lost, harmed or left behind?

    python benchmarks/faults.py                                   every kind twice (about half an hour)
    python benchmarks/faults.py --only parent-killed --times 20   one kind; `--list` names them
    python benchmarks/faults.py --only first-batch --slow 150     a first batch that takes 150 s

Faults come at random moments, those of one ``--seed`` always at the same. Nothing that was measured may be lost: every block
that stands in the events of a run is in its capture, or in what ``perfdoc report RUN`` makes of a run that was killed. Some
kinds need root (a small file system, a read-only one, a memory cgroup); without it they are skipped, and said to be.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from harm import Scan, Trial
from tabulate import tabulate

STARTED = 25.0
"""Maximum seconds until the script must have got where a fault wants it."""

SCRIPT = """
import multiprocessing, os, resource, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __init__(self):
        self.lock, self.asked = multiprocessing.Lock(), 0
    def __len__(self):
        return 1600
    def __getitem__(self, i):
        #item
        return torch.full((64,), i / 1600), i % 10

if __name__ == "__main__":
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Data(), batch_size=16, shuffle=True, num_workers=2)
    step = 0
    #start
    for epoch in range(100000):
        for x, y in loader:
            #step
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        torch.save(model.state_dict(), "model.pt")
        with open("log.csv", "a") as f:
            print(epoch, loss.item(), sep=",", file=f)
"""


class Skipped(Exception):
    """This machine cannot do that to a scan."""


def script(**parts: str) -> str:
    """The script with lines at its marked places: ``start``, ``item``, ``step``."""
    text = SCRIPT
    for place, lines in parts.items():
        indent = next(line for line in SCRIPT.splitlines() if line.strip() == f"#{place}").removesuffix(f"#{place}")
        text = text.replace(f"{indent}#{place}\n", "".join(f"{indent}{line}\n" for line in lines.splitlines()))
    return text


def moment(trial: Trial, scan: Scan) -> None:
    """Wait for a random moment: of the start, of the experiment, or about the scan's end; at once where it has ended."""
    def ended() -> bool:
        return scan.process.poll() is not None

    if trial.rng.random() < 0.7:
        until(lambda: ended() or scan.events("block"), 2 * STARTED)
        at = time.monotonic() + trial.rng.uniform(0, trial.budget + 3)
    else:
        at = scan.started + trial.rng.uniform(0.3, 6)
    until(lambda: ended() or time.monotonic() >= at, 600)
    trial.fault_at = time.monotonic()


def until(what: Callable[[], object], seconds: float = STARTED) -> bool:
    """Wait until something is so; whether it came to be."""
    by = time.monotonic() + seconds
    while not what():
        if time.monotonic() > by:
            return False
        time.sleep(0.02)
    return True


def send(process: psutil.Process | None, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        if process is not None:
            process.send_signal(number)


SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def parent_killed(trial: Trial) -> None:
    """perfdoc itself gets a signal (SIGINT the whole group, as from a terminal)."""
    number = trial.rng.choice(SIGNALS)
    trial.said.append(number.name)
    trial.write(script())
    scan = trial.start()
    moment(trial, scan)
    ours = -int(number) if number == signal.SIGKILL or scan.run is None else 128 + number
    # What ends a scan as Ctrl-C does may answer as Ctrl-C does; and it may have been at its end already.
    trial.codes = (ours, 130, 0)
    if number == signal.SIGINT:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(scan.process.pid, number)
    else:
        scan.process.send_signal(number)


def interrupted_twice(trial: Trial) -> None:
    """Ctrl-C, and again half a second later, by someone in a hurry."""
    trial.write(script())
    scan = trial.start()
    moment(trial, scan)
    trial.codes = (130, 0) if scan.run else (130, 0, 1, -2)
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(scan.process.pid, signal.SIGINT)
        time.sleep(0.5)


def script_killed(trial: Trial) -> None:
    """The script gets a signal from outside, before or in the experiment."""
    number = trial.rng.choice(SIGNALS)
    trial.said.append(number.name)
    trial.write(script())
    scan = trial.start()
    until(lambda: scan.script() is not None)
    moment(trial, scan)
    send(scan.script(), number)
    trial.codes = (0, 128 + number, 1)


def worker_killed(trial: Trial) -> None:
    """A DataLoader worker dies, as from the kernel's out-of-memory killer: the script alone would fail, with no bug."""
    number = trial.rng.choice((signal.SIGKILL, signal.SIGTERM))
    trial.said.append(number.name)
    trial.write(script())
    scan = trial.start()
    moment(trial, scan)
    until(lambda: scan.workers() or scan.process.poll() is not None)
    workers = scan.workers()
    send(trial.rng.choice(workers) if workers else None, number)
    trial.early_codes = (1,)


def suspended(trial: Trial) -> None:
    """perfdoc, the script or one of its workers is stopped: for 8 s, or (the latter two) for good."""
    who = trial.rng.choice(("perfdoc", "script", "worker"))
    for_good = who != "perfdoc" and trial.rng.random() < 0.5
    trial.said.append(f"{who} {'for good' if for_good else 'for 8 s'}")
    trial.write(script())
    scan = trial.start()
    until(lambda: scan.events("seen"))
    moment(trial, scan)
    if who == "worker":
        until(lambda: scan.workers() or scan.process.poll() is not None)
    workers = scan.workers()
    victim = {"perfdoc": psutil.Process(scan.process.pid) if scan.process.poll() is None else None, "script": scan.script(),
              "worker": trial.rng.choice(workers) if workers else None}[who]
    send(victim, signal.SIGSTOP)
    if not for_good:
        time.sleep(8)
        send(victim, signal.SIGCONT)
    elif who == "script":
        trial.codes = (0, 1, 137, 143)


def terminal_gone(trial: Trial) -> None:
    """The terminal's window is closed, or the connection lost: no one reads, and a hang-up is sent."""
    ours, theirs = pty.openpty()
    closed = threading.Event()

    def read() -> None:
        while not closed.is_set():
            if select.select([ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.read(ours, 65536)

    trial.write(script())
    scan = trial.start(terminal=theirs, before=_take_terminal)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    moment(trial, scan)
    trial.codes = (129, 130, 0, *(() if scan.run else (-1, 1)))
    closed.set()
    reader.join()
    os.close(ours)


def mount(trial: Trial, *arguments: str) -> None:
    """Mount something for the time of a trial."""
    if os.geteuid() != 0 or subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode != 0:
        raise Skipped("needs root, to mount")
    trial.undo.callback(subprocess.run, ["umount", "-l", arguments[-1]], capture_output=True, check=False)


def disk_full(trial: Trial) -> None:
    """The disk that holds the run's folder becomes full: a file system of 0.1 to 4 MB."""
    size = int(10 ** trial.rng.uniform(5, 6.6))
    trial.said.append(f"{size / 1e6:.1f} MB")
    small = trial.folder / "small"
    small.mkdir()
    mount(trial, "-t", "tmpfs", "-o", f"size={size}", "none", str(small))
    trial.write(script(step="if step % 20 == 0: print('x' * 2000, flush=True)"))
    trial.start(output=small)
    trial.codes, trial.words = (0, 1, 2), ("No space left", "room left")
    trial.never_its_own = True


def file_limit(trial: Trial) -> None:
    """No file may become larger than 0.1 to 1 MB (``ulimit -f``): enough for the script's own."""
    size = int(10 ** trial.rng.uniform(5, 6))
    trial.said.append(f"{size / 1e6:.2f} MB")
    trial.write(script())
    trial.start(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


def read_only_folder(trial: Trial) -> None:
    """The user's folder cannot be written to: refused with the way out, or, with --output, scanned like any other."""
    elsewhere = trial.rng.random() < 0.5
    trial.said.append("with --output" if elsewhere else "without --output")
    trial.write(script())
    mount(trial, "--bind", str(trial.work), str(trial.work))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(trial.work)], check=True)
    trial.start(output=trial.folder / "elsewhere" if elsewhere else None)
    if not elsewhere:
        trial.codes, trial.words = (2,), ("--output",)


def two_at_once(trial: Trial) -> None:
    """Two scans in one folder at the same time, the second started while the first one starts or trains."""
    trial.write(script())
    first = trial.start()
    until(lambda: first.run is not None)
    time.sleep(trial.rng.uniform(0, 5))
    trial.start()


def loud(trial: Trial) -> None:
    """The script prints 10 MB a second."""
    trial.write(script(
        start="printed, begin = 0, time.time()",
        step="while printed < 10e6 * (time.time() - begin):\n    sys.stdout.write('loss 0.12345 ' * 770 + '\\n')\n"
             "    printed += 10_011"))
    scan = trial.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        scan.process.wait(trial.limit)
    size = (scan.run / "output.log").stat().st_size if scan.run else 0
    trial.said.append(f"log of {size / 1e6:.0f} MB")


def locked_data(trial: Trial) -> None:
    """Workers share a lock of the data set, so one that stands still holds up all others."""
    trial.write(script(item="with self.lock:\n    sum(range(5000))"))
    trial.start()


def first_batch(trial: Trial) -> None:
    """The first sample of a process takes ``--slow`` seconds: an archive is opened."""
    text = f"if not self.asked:\n    self.asked = 1\n    time.sleep({trial.slow})"
    trial.limit += 6 * trial.slow
    trial.write(script(item=text))
    trial.start("--only", "dataloader_workers", "--wait", str(2 * trial.slow + 60))


def not_a_number(trial: Trial) -> None:
    """The loss becomes NaN after some hundred steps."""
    trial.write(script(step=f"if step > {trial.rng.randrange(50, 2000)}: x = x * float('nan')"))
    trial.start()


ROWS = "torch.zeros(len(x), {floats}).sum()"
"""Memory that grows with the batch, let go at once."""


def address_space(trial: Trial) -> None:
    """Batches four times as large do not fit (``ulimit -v``): the allocation fails, in the loop or in the model."""
    where = trial.rng.choice(("loop", "model"))
    trial.said.append(f"in the {where}")
    rows = ROWS.format(floats=2_500_000)
    # What is mapped already is counted too, and differs from machine to machine.
    limit = ("used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
             "resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000,) * 2)\n"
             "class Net(nn.Sequential):\n    def forward(self, x):\n"
             f"        {rows if where == 'model' else 'pass'}\n        return super().forward(x)\nmodel.__class__ = Net")
    trial.write(script(start=limit, step=rows if where == "loop" else "pass"))
    trial.start("--only", "batch_size,optimizer_implementation")


def memory_cgroup(trial: Trial) -> None:
    """Batches four times as large are killed by the kernel: a memory cgroup of 1.5 GB around the scan."""
    group = _cgroup(trial, 1_500_000_000)

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    trial.write(script(step=ROWS.format(floats=5_000_000)))
    trial.start("--only", "batch_size,optimizer_implementation", before=join)


def _take_terminal() -> None:
    """In the new process: the terminal that its streams go to is its own."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _remove_group(group: Path) -> None:
    if until(lambda: not (group / "cgroup.procs").read_text(), 10):
        group.rmdir()


def _cgroup(trial: Trial, size: int) -> Path:
    base = Path("/sys/fs/cgroup")
    one = (base / "memory").is_dir()
    group = (base / "memory" if one else base) / f"perfdoc-faults-{os.getpid()}-{trial.rng.randrange(10**6)}"
    try:
        group.mkdir()
        trial.undo.callback(_remove_group, group)
        (group / ("memory.limit_in_bytes" if one else "memory.max")).write_text(str(size))
    except OSError as error:
        raise Skipped(f"needs a memory cgroup: {error}") from None
    return group


KINDS: dict[str, Callable[[Trial], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        parent_killed, interrupted_twice, script_killed, worker_killed, suspended, terminal_gone, disk_full, file_limit,
        read_only_folder, two_at_once, loud, locked_data, first_batch, not_a_number, address_space, memory_cgroup,
    )
}


def one(kind: str, seed: int, args: argparse.Namespace) -> Trial | str:
    """One try; the reason where this machine cannot do it."""
    folder = Path(tempfile.mkdtemp(prefix=f"perfdoc-{kind}-"))
    trial = Trial(folder, random.Random(f"{kind} {seed}"), args.budget, args.limit, slow=args.slow)
    try:
        with trial.undo:
            try:
                KINDS[kind](trial)
            except Skipped as why:
                return str(why)
            finally:
                trial.wait()
            trial.look()
        return trial
    finally:
        if not (args.keep and trial.complaints):
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(KINDS), metavar="KIND")
    parser.add_argument("--times", type=int, default=2, help="tries of each kind")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of each scan")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds after which a scan is taken to hang")
    parser.add_argument("--slow", type=float, default=150.0, help="seconds of a slow first batch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first try; the others count on")
    parser.add_argument("--keep", action="store_true", help="keep the folders of tries that fail")
    parser.add_argument("--list", action="store_true", help="say what the kinds are")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name}: {(function.__doc__ or '').splitlines()[0]}" for name, function in KINDS.items()))
        return
    rows: list[tuple[Any, ...]] = []
    failures: list[str] = []
    for kind in args.only or KINDS:
        tried: list[Trial] = []
        for seed in range(args.seed, args.seed + args.times):
            trial = one(kind, seed, args)
            if isinstance(trial, str):
                rows.append((kind, f"skipped: {trial}"))
                break
            tried.append(trial)
            line = (f"{kind} {seed} ({', '.join(trial.said) or 'once'}): {'; '.join(trial.complaints) or 'as wanted'}, "
                    f"{trial.seconds:.0f} s")
            print(line, file=sys.stderr, flush=True)
            if trial.complaints:
                failures.append(line + (f" [{trial.folder}]" if args.keep else ""))
        if tried:
            codes = Counter("hung" if t.hung else str(scan.process.returncode) for t in tried for scan in t.scans)
            rows.append((
                kind, len(tried), f"{sum(not t.complaints for t in tried)}/{len(tried)}",
                ", ".join(f"{code} ({count})" for code, count in codes.items()), sum(t.lost for t in tried),
                sum(len(t.left) for t in tried), sum(bool(t.changed) for t in tried),
                sum("blames" in " ".join(t.complaints) for t in tried), f"{max(t.seconds for t in tried):.0f} s",
            ))
    print(tabulate(rows, headers=["what happens", "tried", "as wanted", "exit codes", "blocks lost", "processes left",
                                  "tree changed", "wrong blame", "longest to an answer"]))
    print("".join(f"\n{line}" for line in failures))


if __name__ == "__main__":
    main()
