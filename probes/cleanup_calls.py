"""Treatment: the collections and waits that the script asks for in every step are left out."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.users_calls import is_users_file, replace_function, users_codes, users_sites
from perfdoc.inject.system.process_use import free_memory

COLLECT, SYNCHRONIZE = "gc.collect()", "torch.cuda.synchronize()"
CALLS: tuple[tuple[Any, str, str], ...] = (
    (gc, "collect", COLLECT),
    (torch.cuda, "empty_cache", "torch.cuda.empty_cache()"),
    (torch.cuda, "synchronize", SYNCHRONIZE),
)
"""Place and name of the functions, and what people write."""
LEAST_SHARE = 0.005
"""Minimum share of the step that a line's calls take for it to be tried, because leaving out less could not be seen."""
RARELY = 4
"""Maximum number of steps a call for it to count as one of every step: what is rarer is in some blocks and not in others."""
MOST_OBJECTS = 200_000
"""Maximum number of objects that may be made without a collection, where the script has switched Python's own off."""
MOST_GROWTH = 2**30
"""Maximum growth of memory while collections are left out, in bytes; a tenth of what is free where that is less."""


@dataclass
class Called:
    """One line that makes such calls, as it was seen before anything was changed."""

    call: str
    sites: tuple[str, ...]
    """The line of the call, and the line in the loop that led there where that is another."""
    times: int = 0
    seconds: float = 0.0
    """All calls together, in seconds."""
    objects: int = 0
    """Most unreachable objects that one collection found."""

    @property
    def where(self) -> str:
        """``gc.collect() at train.py:33, called from train.py:64``."""
        return ", called from ".join((f"{self.call} at {self.sites[0]}", *self.sites[1:]))


class CleanupCalls(Treatment):
    """``gc.collect()``, ``torch.cuda.empty_cache()`` and ``torch.cuda.synchronize()`` of the user's own code do nothing.

    Only calls that the user's code makes itself: what a library does with them is its own affair. Python's own collections go
    on. A call is made after all where memory has grown by too much, so that nothing runs full while it is tried.
    """

    slug = "cleanup_calls"
    title = "collections and waits of every step left out"
    phases = ("other",)
    provides = {"cleanup.objects": "count", "cleanup.needed": "count"}

    def __init__(self) -> None:
        self._seen: dict[tuple[str, tuple[str, ...]], Called] = {}
        self._steps = 0
        self._thread = self._process = 0
        self._loop: frozenset[CodeType] = frozenset()
        self._device = "cpu"
        self._changed = ExitStack()
        self._memory = self._most = 0
        self._left_out = self._needed = 0
        self._objects: list[float] = []

    # -- what the script does

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Which lines of the step make such calls, how often, and how long do they take?"""
        undo = ExitStack()
        # Not a hook for after the step: looks end in one of those, and it must not be taken from under torch's feet.
        undo.callback(register_optimizer_step_pre_hook(self._stepping).remove)
        for owner, name, call in CALLS:
            original = getattr(owner, name)

            @functools.wraps(original)
            def timed(*args: Any, _original: Any = original, _call: str = call, **kwargs: Any) -> Any:
                start = perf_counter()
                result = _original(*args, **kwargs)
                self._note(_call, sys._getframe(1), perf_counter() - start, result)
                return result

            undo.callback(replace_function(owner, name, timed))
        return undo.close

    def _stepping(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._steps:
            self._thread, self._loop = threading.get_ident(), users_codes(sys._getframe(1))
        self._steps += 1

    def _note(self, call: str, frame: FrameType, seconds: float, result: Any) -> None:
        # What is done before the first step, or beside the loop, is none of the step's.
        if not self._steps or threading.get_ident() != self._thread or not is_users_file(frame.f_code.co_filename):
            return
        sites = users_sites(frame, self._loop)
        found = self._seen.setdefault((call, sites), Called(call, sites))
        found.times += 1
        found.seconds += seconds
        if call == COLLECT and isinstance(result, int):
            found.objects = max(found.objects, result)

    def offer(self, loop: Loop) -> Offer:
        """Offered where the user's own code makes such calls in every step, or nearly so."""
        least = LEAST_SHARE * loop.step_seconds * self._whole_steps
        # What a wait costs is not the time that the host waits.
        found = [called for called in self._seen.values() if called.times * RARELY >= self._whole_steps
                 and (called.call == SYNCHRONIZE or called.seconds >= least)]
        if not found:
            return Offer("not applicable", reason="the step collects no garbage and waits for nothing by itself")
        found.sort(key=lambda called: -called.seconds)
        words = " and ".join(called.where for called in found)
        said = "; ".join(self._told(called, loop.step_seconds) for called in found)
        return Offer("offered", (Level("off", f"leaving out {words}"),), said, found[0].sites[0])

    @property
    def _whole_steps(self) -> int:
        """Steps from one optimizer call to the next: the last has only begun."""
        return max(1, self._steps - 1)

    def _told(self, called: Called, step: float) -> str:
        times, seconds = called.times / self._whole_steps, called.seconds / self._whole_steps
        share = f", {min(1.0, seconds / step):.0%} of it" if step > 0 else ""
        said = f"{called.where}: {times:.2g} a step, {1000 * seconds:.3g} ms a step{share}"
        return f"{said}; none found more than {called.objects} objects to free" if called.call == COLLECT else said

    # -- without it

    def apply(self, loop: Loop, level: str) -> None:
        """The functions return at once when the user's code calls them."""
        self._process, self._device, self._left_out = os.getpid(), loop.device, 0
        free = free_memory()
        self._memory, self._most = self._used(), MOST_GROWTH if free is None else min(MOST_GROWTH, free // 10)
        for owner, name, call in CALLS:
            original = getattr(owner, name)

            @functools.wraps(original)
            def nothing(*args: Any, _original: Any = original, _call: str = call, **kwargs: Any) -> Any:
                # A worker that was forked meanwhile has this function too, and keeps it.
                mine = os.getpid() == self._process and is_users_file(sys._getframe(1).f_code.co_filename)
                if not mine or (_call == COLLECT and self._must()):
                    return _original(*args, **kwargs)
                if _call != COLLECT:
                    return None
                self._left_out += 1
                return 0

            self._changed.callback(replace_function(owner, name, nothing))

    def _must(self) -> bool:
        """Whether this collection is needed: objects or bytes have piled up since the last one."""
        used = self._used()
        full = used - self._memory > self._most or (not gc.isenabled() and gc.get_count()[0] > MOST_OBJECTS)
        if full:
            self._needed += 1
            self._memory = used  # where it frees nothing, the memory is held for good, and that was not its fault
        return full

    def _used(self) -> int:
        """Bytes that this process holds: on the GPU where it trains there, else in main memory; 0 where that is not known."""
        if self._device == "cuda":
            return int(torch.cuda.memory_allocated())
        try:
            with open("/proc/self/statm", encoding="ascii") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0

    def restore(self, loop: Loop) -> None:
        """The functions as they were; what they would have freed by now is freed, and counted."""
        self._changed.close()
        if self._left_out:
            self._left_out = 0
            self._objects.append(float(gc.collect()))

    def measurements(self, loop: Loop) -> list[Measurement | Unavailable]:
        """Objects that one collection found after each stretch without any, and calls that had to be made in between."""
        if not self._objects:
            return []
        return [
            Measurement("cleanup.objects", "count", tuple(self._objects)),
            Measurement("cleanup.needed", "count", (float(self._needed),)),
        ]
