"""The machine while a scan runs on it: what others use of it, and what it is."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import psutil

from perfdoc.capture.run import Machine
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.launch import host, page_faults
from perfdoc.launch.gpus import Gpus


class HostMonitor:
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
    def describe() -> Machine:
        """The machine in words and figures, and which one it is; memory in bytes."""
        model = ""
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "")
        return Machine(sys.platform, model, psutil.cpu_count(), psutil.virtual_memory().total, **host.identity())


def _shm() -> list[Measurement | Unavailable]:
    """Size of /dev/shm in bytes."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return [Unavailable("machine.shm", "this system has no /dev/shm")]
    return [Measurement("machine.shm", "B", (float(found.f_blocks * found.f_frsize),), {}, "measured in isolation")]
