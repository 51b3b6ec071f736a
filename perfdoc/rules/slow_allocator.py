"""PD316: memory goes back to the system in every step, and is given anew."""

from __future__ import annotations

import statistics

from perfdoc.blocks import CONTROL_ARM
from perfdoc.finding import Finding
from perfdoc.rule import Evidence, Rule

FAULTS = 20_000
"""Page faults a second from which they are told: one (4 KiB, cleared) took 2.7 us on a virtual machine, so 5% of its time."""
KEEPING = ("MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_MMAP_THRESHOLD_=33554432")
"""What makes glibc keep freed memory: the heap is not trimmed below 1 GiB, and nothing below 32 MiB, the most that it accepts,
is a mapping of its own (mallopt(3))."""
VERIFY = "perfdoc verify " + " ".join(f"--env {setting}" for setting in KEEPING)


class SlowAllocator(Rule):
    """Training on the CPU in which the allocator returns memory to the system and asks for it again in every step.

    What it measures
    ----------------
    Page faults that were answered without reading a disk, in the blocks of your own settings (``getrusage``).

    Why it costs time
    -----------------
    glibc gives large freed pieces, and the top of its heap, back to the system. The next step gets them anew, page by page,
    each cleared first. From where on it does so depends on which large pieces the process freed first, so the same script can
    run at two speeds.

    Example
    -------
    ::

        python train.py

    Use instead
    -----------
    ::

        MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 python train.py

    When this is wrong
    ------------------
    Where memory is scarce: what is kept is not there for others. A running process cannot be given these variables, so a scan
    does not try them: ``perfdoc verify --env`` does, in two processes that take turns.
    """

    code = "PD316"
    slug = "slow-allocator"
    needs = ("step.time",)
    effort = "one line"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the control's steps take many page faults a second, on the CPU."""
        if seen.capture.loop is None or seen.capture.loop["device"] != "cpu":
            return None
        # What other work (validation) took of memory is in the count of a block that has such steps, and not in its seconds.
        blocks = [b for b in seen.capture.blocks
                  if b["arm"] == CONTROL_ARM and b["seconds"] and "faults" in b and not b.get("irregular")]
        if not blocks or statistics.median(b["faults"] / b["seconds"] for b in blocks) < FAULTS:
            return None
        each = statistics.median(b["faults"] / b["count"] for b in blocks)
        title = (f"{each:,.0f} page faults a step ({each * 4 / 1024:,.0f} MiB): the allocator gives memory back and gets it "
                 f"anew. What keeps it is tried by: {VERIFY}")
        return Finding(self.code, self.slug, title, "", "undecided", " ".join([*KEEPING, "python ..."]), effort=self.effort)
