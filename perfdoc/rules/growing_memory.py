"""PD808: the training process holds more with every step."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis import memory
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule
from perfdoc.rules.retained_graph import RetainedGraph

EXPLAINS = 0.3
"""Minimum share of the growth that the new entries of a list have for it to be named: most lists that grow are of no weight."""


class GrowingMemory(Rule):
    """The memory of the training process, or of the device, grows with every step.

    What it measures
    ----------------
    The memory that the training process has for itself (anonymous pages), and on a GPU what torch has allocated, at the ends of
    blocks of your own settings. The growth is told a step, with its interval over stretches of the scan, and what is free now
    tells when it will be full. Lists and dictionaries that grew over steps that were watched are named with the line that adds
    to them. Graphs that are kept have a rule of their own (PD404).

    Why it costs time
    -----------------
    When memory runs short, the page cache shrinks first and files are read from storage again; then the process, or one of
    its DataLoader workers, is killed. Results that are kept whole for a metric at the end of the epoch are a common cause.

    Example
    -------
    ::

        outputs = []
        for x, y in loader:
            output = model(x)
            outputs.append(output.detach())

    Use instead
    -----------
    ::

        correct = 0
        for x, y in loader:
            output = model(x)
            correct += (output.argmax(1) == y).sum().item()

    When this is wrong
    ------------------
    If it is wanted (a replay buffer, a cache) and ends before memory does. A scan holds the loop inside its epoch: what is
    dropped at an epoch's end grows further in it until perfdoc lets the epoch end.
    """

    code = "PD808"
    slug = "growing-memory"
    names_cause = "memory"
    needs = ("step.time", "lists.grown")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where memory grows steadily, and no kept graph explains it."""
        found = memory.growing(seen)
        if found is None or RetainedGraph().check(seen) is not None:
            return None
        lists = [m for m in seen.measurements("lists.grown") if m.median >= EXPLAINS * found.rate.center]
        lists.sort(key=lambda m: -m.median)
        what = "device memory" if found.device else "memory"
        title = f"{what} grows by {memory.rate_words(seen)}"
        where = ""
        if lists:
            name, where = str(lists[0].conditions["name"]), str(lists[0].conditions.get("site", ""))
            title += f"; {name} grows with it" + (f" ({where})" if where else "")
        evidence = [*memory.full(seen), *(
            f"{m.conditions['name']} gains {m.median / memory.MIB:.2g} MiB a step ({m.conditions['site']})" for m in lists)]
        fix = "keep sums or numbers (.item()) in place of what is collected, or write it out and drop it"
        return Finding(self.code, self.slug, title, where, "hurts" if lists else "undecided", fix, tuple(evidence),
                       effort=self.effort)
