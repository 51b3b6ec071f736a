"""In a DataLoader worker: samples the stack of the process's main thread, and writes what it saw for the process that trains.

A worker lives as long as its loader's iterator, and may be killed at any time: what is known is written often, and whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import defaultdict
from time import perf_counter

from perfdoc.inject.lines.stack_path import Path, PathReader
from perfdoc.inject.lines.stack_sampler import StackSampler

PERIOD = 0.005
FIRST_WRITE, WRITE_EVERY = 0.05, 1.0
"""Seconds after which it is written first, and maximum of seconds between two times of writing, which grow: some workers live
for a tenth of a second, others for days."""
STRETCH = 0.25
"""Seconds that samples are put together for, so that a part of the worker's life can be chosen later."""
LONGEST = 40.0
"""Maximum time in seconds that a worker is sampled in a scan, because nobody asks after that: see ``natural_look``."""
WATCH_PERIOD, WATCH_WRITE, WATCH_STRETCH = 0.02, 30.0, 60.0
"""The same three of ``perfdoc watch``, in which workers are sampled as long as they live."""
OVER = "lines-over"
"""File in the run's folder that says: no worker need be sampled any more."""


class WorkerLines:
    """Sampling of this process. ``loader``: what tells its loader from others."""

    def __init__(self, run_dir: str, lap: int, loader: str, watch: bool = False) -> None:
        self._run_dir = run_dir
        self._file = os.path.join(run_dir, f"lines-{lap}-{os.getpid()}.json")
        self._loader = loader
        self._seconds: dict[tuple[int, Path], float] = defaultdict(float)
        self._began = perf_counter()
        self._due = self._began + FIRST_WRITE
        period = WATCH_PERIOD if watch else PERIOD
        self._sampler = StackSampler(threading.main_thread().ident or 0, period, self._sampled)
        self._watch = watch
        self._stretch = WATCH_STRETCH if watch else STRETCH
        self._paths: dict[int, Path] = {}
        self._reader = PathReader(self._sampler.codes)

    def begin(self) -> None:
        """Sample from here on."""
        if not is_over(self._run_dir):
            self._sampler.start()

    def _sampled(self) -> None:
        now = perf_counter()
        if now < self._due:
            return
        self._due = now + min(WATCH_WRITE if self._watch else WRITE_EVERY, max(FIRST_WRITE, now - self._began))
        sampler = self._sampler
        for at, weight, place in sampler.take():
            if place not in self._paths:
                self._paths[place] = self._reader.read(sampler.stacks[place])
            self._seconds[int(at / self._stretch), self._paths[place]] += weight
        self._write()
        if (now - self._began > LONGEST and not self._watch) or is_over(self._run_dir):
            sampler.stop()

    def _write(self) -> None:
        paths = list({path for _, path in self._seconds})
        number = {path: n for n, path in enumerate(paths)}
        found = {
            "loader": self._loader, "stretch": self._stretch,
            "paths": [[list(map(list, p.places)), p.phase, p.leaf] for p in paths],
            "seconds": [[stretch, number[path], seconds] for (stretch, path), seconds in self._seconds.items()],
        }
        with contextlib.suppress(OSError):  # a full disk, a run's folder that is gone: the worker works on
            with open(self._file + ".new", "w", encoding="utf-8") as f:
                json.dump(found, f)
            os.replace(self._file + ".new", self._file)


def is_over(run_dir: str) -> bool:
    """Whether nobody asks for lines any more."""
    return os.path.exists(os.path.join(run_dir, OVER))


def begin(run_dir: str, lap: int, watch: bool) -> None:
    """Sample this process where it is a worker of the user's loader. ``watch``: for as long as it lives."""
    loader = os.environ.get("PERFDOC_WORKER", "")
    if loader not in ("", UNWATCHED):
        WorkerLines(run_dir, lap, loader, watch).begin()


UNWATCHED = "1"
"""``PERFDOC_WORKER`` of a worker whose lines nobody asks for."""
