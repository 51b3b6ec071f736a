"""PD407: workers take a large part of the memory."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule
from perfdoc.loader_bench import answer as loader_answer

LARGE = 0.25
"""Share of the machine's memory from which workers' memory is spoken of."""


class WorkerMemory(Rule):
    """Workers and their batches take a large part of RAM or /dev/shm.

    What it measures
    ----------------
    Memory of all workers together (shared pages in proportion) and /dev/shm in use at every worker count that ``perfdoc
    bench-loader`` measured.

    Why it costs time
    -----------------
    Each worker copies the parts of the data set that it touches, and holds ``prefetch_factor`` batches in shared memory. When
    RAM gets short, the page cache shrinks first and files are read from storage again. When /dev/shm is full, workers die
    with a bus error.

    Example
    -------
    ::

        perfdoc bench-loader --workers 0..16 --batch-size 64,256 train.py

    Use instead
    -----------
    ::

        perfdoc bench-loader --workers 0..4 --batch-size 64 train.py

    When this is wrong
    ------------------
    If nothing else needs the memory, there is no point in saving it.
    """

    code = "PD407"
    slug = "worker-memory"
    needs = ("loader.worker_memory", "loader.shm", "loader.rate")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the recommended count takes a quarter of the memory, or counts were left out for lack of it."""
        answer = loader_answer.read(seen.capture.measurements, seen.capture.experiment.failed)
        if answer is None or answer.recommended is None:
            return None
        chosen, memory = answer.recommended, float(seen.capture.machine.memory or 0)
        left_out = [row for row in answer.rows if "do not fit" in row.why or "/dev/shm is full" in row.why]
        large = bool(memory) and (chosen.memory or 0.0) > LARGE * memory
        if not large and not left_out:
            return None
        used = f"{(chosen.memory or 0) / 2**20:.0f} MiB with {chosen.words}"
        title = f"workers take {used}" + (f", {(chosen.memory or 0) / memory:.0%} of the machine's memory" if large else "")
        if left_out:
            title += f"; {', '.join(row.words for row in left_out)} would not fit"
        fix = "fewer workers, a smaller batch or prefetch_factor; share the data set's memory instead of copying it"
        return Finding(self.code, self.slug, title, seen.loader_site, "undecided", fix,
                       tuple(f"{row.words}: {row.why}" for row in left_out), effort=self.effort)
