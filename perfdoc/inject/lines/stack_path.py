"""What a sampled stack says: the user's lines from the outside in, the step's phase, and what ran at the innermost line."""

from __future__ import annotations

import dis
import itertools
import linecache
import os
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType
from typing import NamedTuple

from perfdoc.core.user_code import is_ours, is_users
from perfdoc.inject.lines.stack_sampler import Stack

MOST_FRAMES = 24
"""Maximum number of places in a path: of a deep recursion the outermost ones are kept."""
PYTHON, OPERATOR = "Python", "Python operators"
WAITING = "waiting for workers"
"""What runs where the training thread waits for a batch that a worker makes."""
IDLE = "idle"
"""What runs where a worker waits for something to do."""
HANDING_OVER = "handing the batch over"
LOADER_FILE = os.path.join("torch", "utils", "data", "dataloader.py")
WORKER_FILE = os.path.join("torch", "utils", "data", "_utils", "worker.py")
PHASES = (
    ("data", LOADER_FILE, ""),
    ("data", os.path.join("torch", "utils", "data", "_utils", "fetch.py"), ""),
    ("backward", os.path.join("torch", "autograd", "__init__.py"), ""),
    ("backward", os.path.join("torch", "_tensor.py"), "backward"),
    ("other", os.path.join("torch", "optim", "lr_scheduler.py"), ""),
    ("optimizer", os.path.join("torch", "optim", ""), ""),
    ("forward", os.path.join("torch", "nn", "modules", "module.py"), ""),
)
"""Phase of the step, file (or folder) of torch, function in it: the outermost frame that matches says the phase."""


class Place(NamedTuple):
    """One place on a path."""

    file: str
    line: int
    function: str
    package: str
    """Empty: the user's own code. Else the library, of which a path has the outermost function that was called."""


class Path(NamedTuple):
    """A stack, read."""

    places: tuple[Place, ...]
    """Outermost first."""
    phase: str
    """``data``, ``forward``, ``backward``, ``optimizer`` or ``other``."""
    leaf: str
    """What ran at the innermost place: ``Python``, the callee of a native call (``torch.tensor``), :data:`WAITING`, ..."""


class PathReader:
    """Reads the stacks of one sampler; what is known of a frame is kept."""

    def __init__(self, codes: Mapping[int, CodeType]) -> None:
        self._codes = codes
        self._places: dict[tuple[int, int], Place | None] = {}

    def read(self, stack: Stack) -> Path:
        """The path of a stack."""
        frames = [(stack[n], stack[n + 1]) for n in range(0, len(stack), 2)][::-1]
        phase = leaf = ""
        places: list[Place] = []
        for n, frame in enumerate(frames):
            code = self._codes[frame[0]]
            file = code.co_filename
            if code.co_name == "_worker_loop" and file.endswith(WORKER_FILE):
                # A forked worker has the stack of the process that made it above its own.
                called = self._codes[frames[n + 1][0]].co_name if n + 1 < len(frames) else ""
                phase, leaf, places = "", {"get": IDLE, "put": HANDING_OVER}.get(called, ""), []
                continue
            phase = phase or _phase(file, code.co_name)
            if not leaf and code.co_name in ("_try_get_data", "_get_data") and file.endswith(LOADER_FILE):
                leaf = WAITING
            place = self._place(frame)
            # Of a library the function that the user's code called, and no more of its own.
            if place is not None and (not place.package or not places or places[-1].package != place.package):
                places.append(place)
        while places and places[0].package:  # the interpreter's own start: runpy, torchrun, multiprocessing
            del places[0]
        if not leaf:
            innermost = next((frame for frame in reversed(frames) if self._place(frame) is not None), None)
            leaf = _leaf(self._codes[innermost[0]], innermost[1]) if innermost else PYTHON
        return Path(tuple(places[:MOST_FRAMES]), phase or "other", leaf)

    def _place(self, frame: tuple[int, int]) -> Place | None:
        """None for perfdoc's own wrappers, which are no part of the user's stack."""
        if frame not in self._places:
            code = self._codes[frame[0]]
            owner = _owner(code.co_filename)
            self._places[frame] = None if owner is None else Place(
                code.co_filename, _line(code, frame[1]), qualified_name(code), owner)
        return self._places[frame]


@lru_cache(maxsize=4096)
def _owner(file: str) -> str | None:
    """Empty for the user's own code, the name of a library, None for perfdoc's own."""
    if is_users(file):
        return ""
    if is_ours(file):
        return None
    if file.startswith("<"):
        return "python"
    parts = file.split(os.sep)
    for place in ("site-packages", "dist-packages"):
        if place in parts:
            name = parts[parts.index(place) + 1] if parts.index(place) + 1 < len(parts) else ""
            return name.removesuffix(".py") or "python"
    return "python"


@lru_cache(maxsize=4096)
def _phase(file: str, function: str) -> str:
    return next((phase for phase, place, name in PHASES if place in file and name in ("", function)), "")


def qualified_name(code: CodeType) -> str:
    """``Readings.__getitem__``; before Python 3.11 without the class."""
    return str(getattr(code, "co_qualname", code.co_name)).replace(".<locals>", "")


def _line(code: CodeType, offset: int) -> int:
    for start, end, line in code.co_lines():
        if start <= offset < end:
            return line or code.co_firstlineno
    return code.co_firstlineno


def _leaf(code: CodeType, offset: int) -> str:
    """The callee, as it is written, where the frame is in a native call; else ``Python``, or an operator of either."""
    operation = dis.opname[code.co_code[offset]] if offset >= 0 else ""
    if operation.startswith(("BINARY_", "INPLACE_", "COMPARE_", "UNARY_", "STORE_SUBSCR")):
        return OPERATOR
    if not operation.startswith(("CALL", "PRECALL")):
        return PYTHON
    positions = getattr(code, "co_positions", None)
    at = next(itertools.islice(positions(), offset // 2, None), None) if positions else None
    if at is None or at[0] is None or at[2] is None:
        return "native code"
    line, column = at[0], at[2]
    text = linecache.getline(code.co_filename, line).encode()[column:].decode(errors="replace")
    callee = text.partition("(")[0].strip()
    return callee if callee and len(callee) <= 60 else "native code"
