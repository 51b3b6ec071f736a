"""From where on the state of the machine is worth a word: for rules, the gate and ``perfdoc verify`` alike."""

from __future__ import annotations

BUSY_SHARE = 0.10
"""Share of the cores available from which others are mentioned: on a quiet machine the rest of the system stays below 5%."""
FAULT_SHARE = 0.05
"""Share of a step from which page faults are told."""
KEEPING_MEMORY = ("MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_MMAP_THRESHOLD_=33554432")
"""What makes glibc keep freed memory: the heap is not trimmed below 1 GiB, and nothing below 32 MiB, the most that it accepts,
is a mapping of its own (mallopt(3))."""
TRY_KEEPING = "perfdoc verify " + " ".join(f"--env {setting}" for setting in KEEPING_MEMORY)
