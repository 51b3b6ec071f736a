"""What processes use, read from ``/proc``: CPU time and memory of workers, shared memory, free memory, file handles.

Every function answers None where the system does not tell (macOS, Windows, a hidden ``/proc``): no figure is made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

SHM = "/dev/shm"


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """CPU seconds that living processes have used so far, in user and kernel mode (ticks of 10 ms)."""
    total = 0
    try:
        for pid in pids:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                # The command may hold blanks and brackets: the fields are counted from the last bracket.
                fields = f.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def proportional_memory(pids: Iterable[int]) -> int | None:
    """Bytes of memory of these processes, shared pages counted in proportion (PSS)."""
    total = 0
    try:
        for pid in pids:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as f:
                total += next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
    except (OSError, ValueError, StopIteration):
        return None
    return total


def shared_memory() -> tuple[int, int] | None:
    """Bytes used and bytes free in ``/dev/shm``, through which workers hand over their batches."""
    try:
        found = os.statvfs(SHM)
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize


def free_memory() -> int | None:
    """Bytes of memory that this process can have without swapping.

    The machine's, or less where the limit of a cgroup that it is in, or of its own address space (``ulimit -v``), is nearer.
    """
    found: list[int] = []
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            found.append(next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable")))
    except (OSError, StopIteration, ValueError):
        pass
    for folder, limit, used, cache in _cgroups():
        try:
            with open(f"{folder}/{limit}", encoding="ascii") as f, open(f"{folder}/{used}", encoding="ascii") as g:
                free = int(f.read()) - int(g.read())
            with open(f"{folder}/memory.stat", encoding="ascii") as f:
                # Cached files count as used there, but are dropped when memory is asked for.
                free += next((int(line.split()[1]) for line in f if line.split()[0] == cache), 0)
            found.append(free)
        except (OSError, ValueError):  # no such cgroup, or "max": no limit
            continue
    left = _address_space_left()
    if left is not None:
        found.append(left)
    return max(0, min(found)) if found else None


def _cgroups() -> Iterator[tuple[str, str, str, str]]:
    """Folders of the memory cgroups that this process is in, up to the root, with the names of limit, use and cache there."""
    two = ("memory.max", "memory.current", "inactive_file")
    one = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found = {("/sys/fs/cgroup", *two), ("/sys/fs/cgroup/memory", *one)}
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as f:
            lines = [line.strip().split(":", 2) for line in f]
    except OSError:
        lines = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        root, names = ("/sys/fs/cgroup", two) if not controllers else ("/sys/fs/cgroup/memory", one)
        if controllers and "memory" not in controllers.split(","):
            continue
        while path.strip("/"):
            found.add((root + path.rstrip("/"), *names))
            path = os.path.dirname(path.rstrip("/"))
    yield from sorted(found)


def _address_space_left() -> int | None:
    """Bytes left under ``ulimit -v``; None without such a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        with open("/proc/self/statm", encoding="ascii") as f:
            return max(0, limit - int(f.read().split()[0]) * resource.getpagesize())
    except (ImportError, OSError, ValueError):
        return None


def own_memory() -> int | None:
    """Bytes of memory that this process holds (RSS)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def anonymous_memory() -> int | None:
    """Bytes of memory of this process that no file and no shared memory stands behind: what it has made itself."""
    try:
        with open("/proc/self/statm", encoding="ascii") as f:
            _, resident, shared = f.read().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def unshared_memory(pid: int) -> int | None:
    """Bytes of memory that this process shares with no other one (USS): what it alone costs."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as f:
            found = [int(line.split()[1]) * 1024 for line in f if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    except (OSError, ValueError, IndexError):
        return None
    return sum(found) if len(found) == 2 else None


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held so far."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def free_handles() -> int | None:
    """File handles that this process may still open."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(0, limit - len(os.listdir("/proc/self/fd")))
    except (ImportError, OSError):
        return None
