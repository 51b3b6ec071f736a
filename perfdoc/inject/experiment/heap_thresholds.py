"""glibc's two moving thresholds: a setting of the process that arms of an experiment move without anybody asking for it.

From what a process frees, glibc learns which pieces of memory to take from the system one by one (``mmap_threshold``) and how
much free memory to keep (``trim_threshold``, twice that); both only ever grow (mallopt(3), "dynamic mmap threshold"). A loop
whose largest tensors lie above them pays for fresh pages in every step, 5% to 25% of it on a CPU. After one block of an arm
with larger tensors they stay up, and the user's own settings run faster than they do in a process of their own. So every arm
is given the thresholds that it would have alone: it begins with those from before the first step, and finds again, in every
later block, what its first one made of them.

What is no arm's work (comparing numbers) must leave nothing behind either. Its copies and kept batches, once freed, are free
memory in the heap from which later steps are served without a fault. While it runs, nothing is learnt, and every larger piece
comes from the system by itself and goes back there.

glibc tells neither, and its ``mallopt`` ends the learning for good. They are read and written where they lie: beside
``top_pad`` in its ``struct malloc_par`` (malloc/malloc.c, in this order since glibc 2.10). The place is used only where it was
proved: ``mallopt(M_ARENA_TEST)``, which does nothing else, must change the word that follows, and ``mallopt(M_TOP_PAD)`` with
the value that is there must set the flag that ends the learning, and nothing else. Elsewhere (another libc, another allocator
preloaded, thresholds set by the user's environment or by the program's own ``mallopt``) nothing is touched, and nothing on a
GPU, whose step does not wait for the host's memory.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from perfdoc.core.treatment import CONTROL, Config, config_id

LEAST = 128 * 1024
"""``DEFAULT_MMAP_THRESHOLD_MIN``, which both thresholds start from; also ``DEFAULT_TOP_PAD``."""
MOST = 32 * 1024 * 1024
"""``DEFAULT_MMAP_THRESHOLD_MAX`` where a word has 64 bits."""
M_ARENA_TEST, M_TOP_PAD = -7, -2
"""``malloc.h``."""
ARENA_TEST = 8
"""Its default where a word has 64 bits: cores or not, so many arenas are made before they are counted."""
WORD, INT = 8, 4
FLAG_WITHIN = 8 * WORD
"""Bytes behind ``arena_test`` within which ``no_dyn_threshold`` lies: 40 in glibc 2.35 and 2.36, fewer before."""


class Thresholds(NamedTuple):
    """Bytes of free memory that are kept, and from which on a piece is taken from the system by itself."""

    trim: int
    mmap: int


class MallocThresholds:
    """The thresholds of this process, where they can be had.

    ``at``: address of glibc's ``trim_threshold``; None where it was not found, where the program has set thresholds of its own
    (``mallopt``), and where ``wanted`` is False. ``fixed_at``: that of its ``no_dyn_threshold``.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.at = _found() if wanted else None
        self.fixed_at = None if self.at is None else _flag(self.at)
        if self.fixed_at is None:
            self.at = None

    def _moving(self) -> bool:
        """Whether glibc still learns: the program has not set thresholds of its own since."""
        return self.fixed_at is not None and _int(self.fixed_at).value == 0

    def read(self) -> Thresholds | None:
        """The thresholds now; None where they cannot be read."""
        if self.at is None or not self._moving():
            return None
        return Thresholds(_word(self.at).value, _word(self.at + 2 * WORD).value)

    def write(self, thresholds: Thresholds | None) -> None:
        """Set both, as glibc itself does when it learns. Without an address or with None: nothing."""
        if self.at is None or thresholds is None or not self._moving():
            return
        _word(self.at).value, _word(self.at + 2 * WORD).value = thresholds

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Every piece of ``LEAST`` bytes and more is taken from the system by itself and goes back there; nothing is learnt."""
        before = self.read()
        if before is None or self.fixed_at is None:
            yield
            return
        self.write(Thresholds(LEAST, LEAST))
        _int(self.fixed_at).value = 1
        try:
            yield
        finally:
            _int(self.fixed_at).value = 0
            self.write(before)


class ArmThresholds:
    """The thresholds of every arm of one experiment.

    ``before``: those from before the first step. The user's own settings keep what they have when the experiment begins.
    """

    def __init__(self, process: MallocThresholds, before: Thresholds | None) -> None:
        self._process = process
        self._before = before
        self._known: dict[str, Thresholds | None] = {config_id(CONTROL): process.read()}
        self._apart = False

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Steps that are no arm's work: they leave nothing in the heap, whatever is entered."""
        self._apart = True
        try:
            with self._process.leaving_nothing():
                yield
        finally:
            self._apart = False

    def enter(self, config: Config) -> None:
        """Go on with what ``config`` found for itself; with those from before the first step where it is new."""
        if self._apart:
            return
        self._process.write(self._known.get(config_id(config), self._before))

    def settle(self, config: Config) -> None:
        """A block of ``config`` has ended: what its steps made of the thresholds stays its own."""
        self._known.setdefault(config_id(config), self._process.read())


class ProcessHeap:
    """The thresholds of this process, looked for when they are first asked for; left alone where a model is on a GPU."""

    def __init__(self) -> None:
        self._on_device = False
        self._before: Thresholds | None = None

    @cached_property
    def thresholds(self) -> MallocThresholds:
        """The process's own."""
        return MallocThresholds(wanted=not self._on_device)

    def remember(self, model: Any) -> None:
        """``model``, the first one, is about to be called in training: what holds now is from before the first step."""
        self._on_device = any(parameter.device.type != "cpu" for parameter in model.parameters())
        self._before = self.thresholds.read()

    def of_arms(self) -> ArmThresholds:
        """Those of an experiment that begins now."""
        return ArmThresholds(self.thresholds, self._before)


def _word(address: int) -> ctypes.c_size_t:
    return ctypes.c_size_t.from_address(address)


def _int(address: int) -> ctypes.c_int:
    return ctypes.c_int.from_address(address)


def _flag(at: int) -> int | None:
    """Address of ``no_dyn_threshold``: ``mallopt`` sets it when ``top_pad`` is given, here with the value that it has."""
    start = at + 4 * WORD
    places = range(start, start + FLAG_WITHIN, INT)
    before = [_int(place).value for place in places]
    if not ctypes.PyDLL("libc.so.6").mallopt(M_TOP_PAD, LEAST):
        return None
    # Counters lie before it, in every version: should one of them become 1 in this moment, the flag is still the last.
    changed = [place for place, value in zip(places, before, strict=True) if (value, _int(place).value) == (0, 1)]
    if not changed:
        return None
    _int(changed[-1]).value = 0
    return changed[-1]


def _found() -> int | None:
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_size_t) != WORD or _set_by_the_user():
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        libc.gnu_get_libc_version()
        places = [place for start, end in _writable() for place in _alike(start, end)]
    except (OSError, AttributeError):
        return None
    if len(places) != 1 or not _serves(libc):
        return None
    arena_test = _word(places[0] + 3 * WORD)
    moved = libc.mallopt(M_ARENA_TEST, ARENA_TEST + 1) and arena_test.value == ARENA_TEST + 1
    libc.mallopt(M_ARENA_TEST, ARENA_TEST)
    return places[0] if moved and arena_test.value == ARENA_TEST else None


def _set_by_the_user() -> bool:
    """Whether the environment fixes them: they do not move then."""
    return any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _writable() -> list[tuple[int, int]]:
    """Addresses of libc's own variables."""
    with open("/proc/self/maps", encoding="utf-8") as f:
        parts = [line.split() for line in f]
    spans = [part[0].split("-") for part in parts if len(part) > 5 and part[1].startswith("rw") and _is_libc(part[5])]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def _is_libc(path: str) -> bool:
    name = os.path.basename(path)
    return name == "libc.so.6" or name.startswith("libc-2.")


def _alike(start: int, end: int) -> list[int]:
    """Where words follow each other that may be the thresholds, with what lies between and after them."""
    words = struct.unpack(f"{(end - start) // WORD}Q", ctypes.string_at(start, end - start))
    return [
        start + WORD * place for place in range(len(words) - 3)
        if words[place + 1] == LEAST and words[place + 3] == ARENA_TEST
        and LEAST <= words[place + 2] <= MOST and words[place] in (LEAST, 2 * words[place + 2])
    ]


def _serves(libc: ctypes.CDLL) -> bool:
    """Whether it is libc that answers ``malloc`` in this process, and no library that was loaded before it."""
    here = ctypes.CDLL(None)
    return _address(here) == _address(libc)


def _address(library: ctypes.CDLL) -> int | None:
    return ctypes.cast(library.malloc, ctypes.c_void_p).value
