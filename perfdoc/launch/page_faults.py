"""What a page fault costs on this machine: memory that a process is given anew, cleared by the system first."""

from __future__ import annotations

import mmap
import resource
import time

from perfdoc.core.measurement import Measurement, Unavailable

METRIC = "machine.page_fault"
PIECE = 1 << 20
"""Bytes of a piece that is mapped and touched: below the 2 MiB from which the system may answer with one huge page."""
PIECES = 32
"""Pieces, each a sample: 8192 pages of 4 KiB, about 20 ms on a virtual machine, and 32 MiB for that long."""


def measure() -> Measurement | Unavailable:
    """Seconds that one page fault takes, which no disk is read for; a sample for each mapping of 1 MiB.

    Every page of a fresh private mapping is written to twice: the second time tells what the loop itself takes.
    """
    samples, held = [], []
    try:
        for _ in range(PIECES):
            piece = mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            held.append(piece)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            first = _touch(piece)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            if faults > 0:
                samples.append(max(0.0, first - _touch(piece)) / faults)
    except OSError as error:
        return Unavailable(METRIC, f"no memory could be mapped: {error}")
    finally:
        for piece in held:
            piece.close()
    if not samples:
        return Unavailable(METRIC, "the system counts no page faults for a process")
    return Measurement(METRIC, "s", tuple(samples), {}, "measured in isolation")


def _touch(piece: mmap.mmap) -> float:
    began = time.perf_counter()
    for place in range(0, PIECE, mmap.PAGESIZE):
        piece[place] = 1
    return time.perf_counter() - began
