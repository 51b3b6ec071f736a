"""Whether a process lives."""

from __future__ import annotations

import os


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended; False for 0, also where it is in another PID namespace."""
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not os.path.isdir("/proc/self")
