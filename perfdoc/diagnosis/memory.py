"""What the growth of memory comes to, in words: a step, an epoch, and until the machine is full."""

from __future__ import annotations

from typing import NamedTuple

from perfdoc.diagnosis import growth
from perfdoc.diagnosis.evidence import Evidence

MIB = 2**20
LEAST_GROWN = 32 * MIB
"""Minimum growth while it was watched, in bytes: pools of libraries take less than that as they fill up."""
LEAST_SHARE = 0.3
"""Minimum share of the median rate that the lower end of its interval has, for growth to be steady."""


class Growing(NamedTuple):
    """Memory that grows steadily."""

    rate: growth.Rate
    """In bytes a step."""
    device: bool
    """Whether it is the device's, not the process's own."""


def growing(seen: Evidence) -> Growing | None:
    """The memory that grows with the steps, the device's before the process's own; None where it does not grow steadily."""
    for device in (True, False):
        rate = growth.memory_rate(seen.capture, device)
        if rate is not None and rate.grown >= LEAST_GROWN and rate.low >= LEAST_SHARE * rate.center:
            return Growing(rate, device)
    return None


def rate_words(seen: Evidence) -> str:
    """``3.1 MiB a step [2.9, 3.3]``; empty where memory does not grow steadily."""
    found = growing(seen)
    if found is None:
        return ""
    rate = found.rate
    return f"{rate.center / MIB:.2g} MiB a step [{rate.low / MIB:.2g}, {rate.high / MIB:.2g}]"


def rough_rate(seen: Evidence) -> str:
    """``about 3 MiB a step``, from the ends of a scan too short for an interval; empty where it grew by little."""
    found = [(m.steps, m.memory) for m in growth.moments(seen.capture) if m.memory is not None]
    if len(found) < 2 or found[-1][0] <= found[0][0] or found[-1][1] - found[0][1] < LEAST_GROWN:
        return ""
    return f"about {(found[-1][1] - found[0][1]) / (found[-1][0] - found[0][0]) / MIB:.1g} MiB a step"


def full(seen: Evidence) -> list[str]:
    """What an epoch adds, and after how many steps nothing is left, as lines of evidence."""
    found = growing(seen)
    if found is None:
        return []
    lines = [f"{size(found.rate.grown)} more at the end of the scan than at its beginning"
             + (" on the device" if found.device else ", in the training process alone")]
    batches = seen.measurement("loader.batches_an_epoch")
    loop = seen.capture.loop
    if batches is not None and loop is not None and loop.loaders:
        steps = batches.median / max(1, loop.loaders[0].batches_a_step)
        lines.append(f"an epoch of {steps:.0f} steps adds {size(steps * found.rate.center)}")
    free = next((m.free for m in reversed(growth.moments(seen.capture)) if m.free is not None), None)
    if free is not None and not found.device:
        left = free / found.rate.center
        when = duration(left * seen.step_seconds) if seen.step_seconds else ""
        lines.append(f"{size(free)} were still free: full after about {left:,.0f} more steps" + (f" ({when})" if when else "")
                     + " unless it is dropped at the end of an epoch")
    return lines


def size(count: float) -> str:
    """Bytes as ``512 MiB`` or ``3.1 GiB``."""
    return f"{count / MIB:.0f} MiB" if count < 1024 * MIB else f"{count / 2**30:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
