"""One side of an alternation, inside the user's process: runs blocks of steps, and stands still while the other side runs.

At the end of a block the process stops itself (SIGSTOP), with its workers; :mod:`perfdoc.compare.paired_runs` wakes it. Before
the first block it counts what can be counted exactly: host-device syncs, graph breaks, bytes given to the model.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import sys
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any

from perfdoc.capture import events
from perfdoc.capture.records import Counts
from perfdoc.core.measurement import Measurement
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover
from perfdoc.core.treatment import Loop, Offer, Treatment
from perfdoc.inject.observe.step_finder import Step
from perfdoc.inject.system.batches import tensors_in

if TYPE_CHECKING:
    from perfdoc.inject.session import Session

SYNCS = "sync.places"
"""Metric of the probe that counts the waits of the host for the device."""
COUNTED_STEPS = 5
"""Steps in which syncs are counted; what differs between them is told as varying, and not compared."""
MOST_SETTLING = 64
"""Steps at the start of a block that do not count, at most."""


class Inputs(Treatment):
    """Counts the bytes that outermost modules are given in a step; changes nothing."""

    slug = "_inputs"
    title = "bytes given to the model"

    def __init__(self) -> None:
        self.bytes = 0

    def offer(self, loop: Loop) -> Offer:
        """Never offered: it is no change."""
        return Offer("not applicable")

    def apply(self, loop: Loop, level: str) -> None:
        """Nothing."""

    def restore(self, loop: Loop) -> None:
        """Nothing."""

    def on_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Add up what the module is given."""
        self.bytes += sum(t.numel() * t.element_size() for t in tensors_in((args, kwargs)))
        return args, kwargs


class Task:
    """What is done with the loop in place of an experiment (see ``Session``)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._block = session.settings.block or 0.0
        self._inputs = Inputs()
        self.active: tuple[Treatment, ...] = (self._inputs,)
        self._watched: list[Counter[tuple[str, str]]] = []
        self._bytes: list[int] = []
        self._probe: Any = None
        self._settling = 0
        self._began = 0.0
        self._faults = 0
        self._steps = 0
        self._other = 0.0
        session.clock.without_events()
        # Batches that are ready were made in this side's own time, as the workers stand still too. What they waited for (a
        # disk, a network) came while the other side ran: the batch that each was making does not count.
        making = sum(handle.loader.num_workers / max(1, handle.batches_a_step) for handle in session.loop.loaders)
        self._in_the_making = min(MOST_SETTLING, math.ceil(making))

    def on_step(self, step: Step, regular: bool) -> None:
        """A step has ended: count, or time, or stand still."""
        if self.active:
            self._count(regular)
            return
        if self._settling:
            self._settling -= 1
            if not self._settling:
                self._begin()
            return
        if regular:
            self._steps += 1
        else:
            self._other += step.seconds
        # What is timed is the wall's time: on a device that works asynchronously a step is over on the host before it is done.
        if self._steps and perf_counter() - self._began - self._other >= self._block:
            self._session.device.wait()
            seconds = perf_counter() - self._began - self._other
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._faults
            self._session.recorder.write(events.PaceMeasured(
                seconds=seconds, steps=self._steps, other=self._other, faults=faults))
            self._stand_still()

    def _count(self, regular: bool) -> None:
        """Watch the next steps for syncs, then tell, and wait for the first block."""
        session = self._session
        if self._probe is not None:
            found = [m for m in self._probe.measure(session.loop, {}) if isinstance(m, Measurement)]
            if regular:
                self._watched.append(Counter({
                    (str(m.conditions["site"]), str(m.conditions["call"])): int(m.median) for m in found if m.conditions
                }))
                self._bytes.append(self._inputs.bytes)
        if len(self._watched) < COUNTED_STEPS:
            self._probe = next((p for p in discover(Probe, session.settings.packages)  # type: ignore[type-abstract]
                                if SYNCS in p.provides), None)
            self._inputs.bytes = 0
            if self._probe is not None:
                self._probe.prepare(session.loop)
                return
        places = {place for one in self._watched for place in one}
        times = {place: {one[place] for one in self._watched} for place in sorted(places)}
        session.recorder.write(events.Counted(record=Counts(
            syncs=[(site, call, min(found)) for (site, call), found in times.items() if len(found) == 1],
            varying=[place for place, found in times.items() if len(found) > 1],
            input_bytes=self._bytes[0] if len(set(self._bytes)) == 1 else None, graph_breaks=_graph_breaks(),
            modules=_modules(session.settings.home or ""),
        )))
        self.active = ()
        self._stand_still()

    def _stand_still(self) -> None:
        session = self._session
        session.device.wait()
        workers = [child.pid for child in multiprocessing.active_children() if child.pid]
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # or they would fill up the stock while the other side runs
        session.recorder.write(events.Standing(workers=workers))
        os.kill(os.getpid(), signal.SIGSTOP)
        # Woken up: the pause is no part of any step.
        self._steps, self._other, self._settling = 0, 0.0, self._in_the_making
        self._begin()

    def _begin(self) -> None:
        self._session.device.wait()
        self._session.clock.restart()
        self._faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self._began = perf_counter()


def _graph_breaks() -> int | None:
    """Graph breaks that torch.compile met so far; None where nothing was compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return None
    counters = dynamo.counters
    return sum(counters["graph_break"].values()) if counters["stats"] else None


def _modules(home: str) -> list[str]:
    """Files of modules that were imported from below ``home``."""
    prefix = os.path.join(home, "")
    files = {os.path.abspath(f) for m in list(sys.modules.values()) if (f := getattr(m, "__file__", None))}
    return sorted(f for f in files if f.startswith(prefix) and "site-packages" not in f and f.endswith(".py"))


