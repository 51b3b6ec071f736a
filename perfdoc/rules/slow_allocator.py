"""PD316: memory goes back to the system in every step, and is given anew."""

from __future__ import annotations

import statistics

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.machine_state import FAULT_SHARE, KEEPING_MEMORY, TRY_KEEPING
from perfdoc.diagnosis.rule import Rule, worth_a_word

STEADY = 0.4
"""Share of the blocks below which page faults may be missing."""

class SlowAllocator(Rule):
    """Training on the CPU where the allocator returns memory to the system and asks for it again in every step.

    What it measures
    ----------------
    The number of page faults that need no disk (``getrusage``), counted while your own settings run, times the cost of one on
    this machine. For that cost, fresh memory is mapped and written to after the training has ended.

    Why it costs time
    -----------------
    glibc returns large freed blocks, and the top of its heap, to the system. The next step gets this memory again page by page,
    and the system clears each page first. From which size on glibc does so depends on which large blocks the process freed
    first. So the same script can run at two speeds, and predictions for the changed script are less certain.

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
    If memory is short: what the process keeps is not available to others. A scan does not try these variables, because a
    process reads them when it starts. ``perfdoc verify --env`` tries them in two processes that take turns.
    """

    code = "PD316"
    slug = "slow-allocator"
    needs = ("step.time", "machine.page_fault")
    effort = "one line"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where page faults take a good part of the control's steps, on the CPU."""
        cost = seen.measurement("machine.page_fault")
        if cost is None or not seen.fault_rates:
            return None
        share = cost.median * statistics.median(seen.fault_rates)
        # Faults of about half of the blocks alone come and go; what the allocator gives back it asks for in each step.
        steady = cost.median * sorted(seen.fault_rates)[int(STEADY * len(seen.fault_rates))]
        if share < FAULT_SHARE or not worth_a_word(steady * seen.step_seconds, seen):
            return None
        each = statistics.median(seen.fault_rates) * seen.step_seconds
        title = (f"{each:,.0f} page faults a step ({each * 4 / 1024:,.0f} MiB), about {share:.0%} of it: the allocator gives "
                 f"memory back and gets it anew. What keeps it is tried by: {TRY_KEEPING}")
        fix = " ".join([*KEEPING_MEMORY, "python ..."])
        said = f"a page fault takes {cost.median * 1e6:.1f} us here, measured in isolation"
        return Finding(self.code, self.slug, title, "", "undecided", fix, (said,), effort=self.effort)
