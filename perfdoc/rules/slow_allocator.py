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
    """Training on the CPU in which the allocator returns memory to the system and asks for it again in every step.

    What it measures
    ----------------
    Page faults that were answered without reading a disk, in the blocks of your own settings (``getrusage``), times what one
    costs on this machine: fresh memory is mapped and written to after the training has ended.

    Why it costs time
    -----------------
    glibc gives large freed pieces, and the top of its heap, back to the system. The next step gets them anew, page by page,
    each cleared first. From where on it does so depends on which large pieces the process freed first, so the same script can
    run at two speeds: what is predicted of the changed script is that much less certain.

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
