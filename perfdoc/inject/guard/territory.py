"""Which folders are the user's work, where nothing that a script does may arrive, and which it may write to as always."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

CACHES = (".cache", ".triton", ".nv", ".torch", ".keras", ".config/matplotlib", ".pyenv", ".local/share")
"""Folders in the home folder that programs keep caches in: what is written there is no result of the script's."""
CACHE_VARIABLES = (
    "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
    "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH",
)


class Territory:
    """``run_dir``: the run's own folder. ``protect``: the user's project, guarded even where it lies in a temporary folder."""

    def __init__(self, run_dir: str, protect: Sequence[str]) -> None:
        home = os.path.expanduser("~")
        free = [run_dir, "/dev", "/proc", "/sys", "/run", tempfile.gettempdir(), "/tmp", "/var/tmp",
                *(os.path.join(home, name) for name in CACHES), *(os.environ.get(name, "") for name in CACHE_VARIABLES)]
        self._free = tuple(_inside(path) for path in free if path)
        self._protected = tuple(map(_inside, protect))

    def guarded(self, path: str) -> bool:
        """Whether what the script does at an absolute ``path`` must not reach the user's tree."""
        inside = path + os.sep
        if inside.startswith(self._protected) and not self.is_of_the_run(inside):
            return True
        return not inside.startswith(self._free)

    def is_of_the_run(self, path: str) -> bool:
        """Whether it lies in the run's own folder."""
        return path.startswith(self._free[0])


def _inside(folder: str) -> str:
    """What every real path in a folder begins with."""
    return os.path.join(os.path.realpath(folder), "")
