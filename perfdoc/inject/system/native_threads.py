"""Threads that libraries start for themselves: OpenBLAS behind NumPy and SciPy, and OpenCV. How many they have, and setting it.

torch gives each DataLoader worker one thread of its own. These libraries do not know of it and use all cores in each worker.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PREFIXES, SUFFIXES = ("", "scipy_"), ("", "64_", "_64")
"""Of OpenBLAS' functions: NumPy's and SciPy's wheels name theirs apart, and those with 64-bit integers."""


@dataclass(frozen=True)
class Limit:
    """The number of threads of one library in this process."""

    name: str
    get: Callable[[], int]
    put: Callable[[int], None]
    one: int = 1
    """What is set for no threads beside the calling one."""


def opencv() -> Limit | None:
    """OpenCV's; None where it is not imported."""
    cv2: Any = sys.modules.get("cv2")
    return None if cv2 is None else Limit("OpenCV", cv2.getNumThreads, cv2.setNumThreads, 0)


def blas() -> list[Limit]:
    """Those of all BLAS libraries that are loaded: as threadpoolctl knows them where it is installed, else every OpenBLAS."""
    if "numpy" not in sys.modules:
        return []
    if importlib.util.find_spec("threadpoolctl") is not None:
        threadpoolctl = importlib.import_module("threadpoolctl")
        found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
        others = [library for library in found if not _is_torchs(library.filepath)]
        return [Limit(library.internal_api, library.get_num_threads, library.set_num_threads) for library in others]
    return [limit for path in _loaded("openblas") if (limit := _openblas(path)) is not None]


def _is_torchs(path: str) -> bool:
    """A library of torch's own, whose threads ``torch.set_num_threads`` sets."""
    return "/torch/lib/" in path


def _loaded(word: str) -> list[str]:
    """Paths of the shared libraries of this process whose file name has ``word`` in it."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6]
    except OSError:
        return []
    return [path for path in dict.fromkeys(paths) if word in path.rpartition("/")[2] and not _is_torchs(path)]


def _openblas(path: str) -> Limit | None:
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    for prefix, suffix in itertools.product(PREFIXES, SUFFIXES):
        get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
        put = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
        if get is not None and put is not None:
            return Limit("openblas", get, put)
    return None


def busy(work: Callable[[], Any], seconds: float) -> float:
    """How many threads of this process work on ``work``, on average, while it is called again and again for so long.

    CPU time of the process for that of the calling thread: on a busy machine all threads have less of it.
    """
    start, used, own = time.perf_counter(), time.process_time(), time.thread_time()
    while time.perf_counter() - start < seconds:
        work()
    return (time.process_time() - used) / max(1e-6, time.thread_time() - own)
