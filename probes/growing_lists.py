"""Probe: lists, dictionaries and sets of the script that get longer with every step."""

from __future__ import annotations

import gc
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.probe import Probe
from perfdoc.core.treatment import Loop
from perfdoc.inject.observe.holders import Holder, holders_of

KINDS = (list, dict, deque, set)
SHORTEST = 8
"""Entries below which a container is not looked at: there are too many of them, and they cost nothing."""
MOST_GROWN = 32
"""Maximum number of containers that are asked for their holder."""
MOST_ENTRIES = 64
"""Maximum number of entries of a container whose size is looked at."""


class GrowingLists(Probe):
    """Watches a step: which containers hold more entries at its end than at its beginning, and by which name of the user's.

    What no variable and no attribute of the user's own code holds is left out, so that lists of libraries are.
    """

    slug = "growing_lists"
    provides = {"lists.growing": "count", "lists.grown": "B"}

    def __init__(self) -> None:
        self._lengths: dict[int, int] | None = None

    def prepare(self, loop: Loop) -> None:
        """Note the length of every container."""
        self._lengths = None
        self._lengths = {id(found): len(found) for found in _containers()}

    def measure(self, loop: Loop, plan: Mapping[str, str]) -> list[Measurement | Unavailable]:
        """Entries that each of them has gained, and their bytes."""
        lengths, self._lengths = self._lengths, None
        if lengths is None:
            return [Unavailable(metric, "the lists could not be counted") for metric in self.provides]
        grown = [(len(found) - lengths[id(found)], found) for found in _containers()
                 if id(found) in lengths and len(found) > lengths[id(found)]]
        grown.sort(key=lambda entry: -len(entry[1]))
        gained = {id(found): more for more, found in grown[:MOST_GROWN]}
        named: dict[str, tuple[Any, Holder]] = {}
        for value, holder in holders_of([found for _, found in grown[:MOST_GROWN]], deepest=1):
            named.setdefault(holder.name, (value, holder))
        if not named:
            why = "no list of the script's grew in the step that was watched"
            return [Unavailable(metric, why) for metric in self.provides]
        found_now: list[Measurement | Unavailable] = []
        for name, (value, holder) in named.items():
            more, conditions = gained[id(value)], {"name": name, "site": holder.site, "read": holder.read}
            found_now.append(Measurement("lists.growing", "count", (float(more),), conditions))
            found_now.append(Measurement("lists.grown", "B", (float(_newest(value, more)),), conditions))
        return found_now


def _containers() -> list[Any]:
    return [found for found in gc.get_objects() if type(found) in KINDS and len(found) >= SHORTEST]


def _newest(container: Any, count: int) -> int:
    """Bytes of the entries that were added last, about."""
    if isinstance(container, set):
        entries: Iterable[Any] = itertools.islice(container, count)
    else:
        values = container.values() if isinstance(container, dict) else container
        entries = itertools.islice(reversed(values), count)
    looked_at = [_bytes(entry) for entry in itertools.islice(entries, MOST_ENTRIES)]
    return sum(looked_at) * count // max(1, len(looked_at))


def _bytes(value: Any, depth: int = 3) -> int:
    """Bytes of an object with what it holds, of arrays and tensors with their numbers."""
    size = sys.getsizeof(value, 64)
    data = getattr(value, "nbytes", 0) if not isinstance(value, type) else 0
    size += int(data) if isinstance(data, int) else 0
    if depth and isinstance(value, list | tuple | dict):
        inner = [_bytes(entry, depth - 1) for entry in itertools.islice(
            value.values() if isinstance(value, dict) else value, MOST_ENTRIES)]
        size += sum(inner) * len(value) // max(1, len(inner))
    return size
