"""PD705: /dev/shm is too small for workers."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule

SMALL = 64 * 2**20
"""Bytes: Docker's default."""


class SmallShm(Rule):
    """/dev/shm is small: workers pass their batches through it, and die with a bus error when it is full.

    What it measures
    ----------------
    The size of /dev/shm on the machine (or in the container) of the run.

    Why it costs time
    -----------------
    Docker gives a container 64 MiB by default. A batch of 256 pictures of 224x224 pixels in float32 takes 147 MiB.

    Example
    -------
    ::

        docker run image python train.py

    Use instead
    -----------
    ::

        docker run --shm-size=8g image python train.py

    When this is wrong
    ------------------
    If no loader has workers, or the sharing strategy is ``file_system`` on another disk.
    """

    code = "PD705"
    slug = "small-shm"
    needs = ("machine.shm",)
    effort = "one line"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where /dev/shm has no more than Docker's default."""
        size, loop = seen.measurement("machine.shm"), seen.capture.loop
        if size is None or size.median > SMALL or loop is None or not loop.loaders:
            return None
        title = f"/dev/shm has {size.median / 2**20:.0f} MiB: workers fill it, and die with a bus error when it is full"
        fix = "docker run --shm-size=8g, or ipc=host"
        return Finding(self.code, self.slug, title, "", "undecided", fix, effort=self.effort)
