"""Settings of a DataLoader that are compared, and all combinations of them. Standard library only."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One setting of a loader; None leaves what the user has."""

    workers: int
    prefetch: int | None = None
    pin_memory: bool | None = None
    persistent: bool | None = None
    batch_size: int | None = None
    context: str | None = None
    in_order: bool | None = None

    @property
    def conditions(self) -> dict[str, str | int | float]:
        """What was set, as conditions of a measurement."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: int(value) if isinstance(value, bool) else value for name, value in found.items() if value is not None}


def settings_of(
    workers: Iterable[int], others: Mapping[str, Sequence[Any]] | None = None
) -> list[Setting]:
    """All combinations of the counts with the values of other fields of :class:`Setting`."""
    others = {name: list(values) for name, values in (others or {}).items() if values}
    found = [
        Setting(count, **dict(zip(others, values, strict=True)))
        for values in itertools.product(*others.values()) for count in sorted(set(workers))
    ]
    # Without workers there is nothing to prefetch, keep, start or reorder: such settings are one.
    plain = [
        s if s.workers else Setting(0, pin_memory=s.pin_memory, batch_size=s.batch_size) for s in found
    ]
    return list(dict.fromkeys(plain))
