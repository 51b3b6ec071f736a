"""What a scan survived, as notes: one line a kind of incident, with how often it happened and the last line of its error."""

from __future__ import annotations

from collections import Counter

from perfdoc.capture.event_lines import KINDS
from perfdoc.capture.records import Happened

LONGEST = 160
"""Maximum number of characters of what an incident says."""


def lines(incidents: list[Happened]) -> list[str]:
    """``perfdoc: a probe raised (probe storage: RuntimeError: ...), twice``, in the order they came first."""
    counted = Counter((one.what, _short(one.words)) for one in incidents)
    found = []
    for (what, words), times in counted.items():
        kind = KINDS.get(what)
        said = (kind.__doc__ or what).splitlines()[0].rstrip(".") if kind else what
        often = "" if times == 1 else f", {times} times"
        found.append(f"perfdoc: {said[0].lower()}{said[1:]}{f' ({words})' if words else ''}{often}")
    return found


def _short(words: str) -> str:
    """An incident's words with its traceback cut to the last line, which names the error."""
    before, found, error = words.partition("error ")
    last = error.strip().splitlines()[-1] if found and error.strip() else ""
    said = (before + last if last else words).replace("\n", " ")
    return said if len(said) <= LONGEST else said[:LONGEST - 3] + "..."
