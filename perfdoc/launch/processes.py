"""The processes of a run: found by their environment, ended, and what they leave in shared memory removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil


def remove_shared_memory(pids: set[int]) -> None:
    """Remove what torch left in /dev/shm for processes that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/shm"):
            parts = name.split("_")
            if parts[0] == "torch" and len(parts) > 1 and parts[1].isdigit() and int(parts[1]) in pids:
                os.unlink(os.path.join("/dev/shm", name))


def of_run(folder: str) -> Iterator[psutil.Process]:
    """Processes that carry the run in their environment."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("PERFDOC_RUN_DIR") == folder
            ):
                yield process
        except psutil.Error:
            continue


def terminate(pid: int) -> None:
    """End a process and its children: politely at first, after three seconds by force."""
    with contextlib.suppress(psutil.Error):
        tree = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=3)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
