"""How many CPU cores this process may really use: affinity mask and cgroup quota considered."""

from __future__ import annotations

import os


def _quota() -> float | None:
    """CPU cores allowed by the cgroup's bandwidth limit (version 2, then 1); None where there is no limit."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as f:
            paths = [line.strip().split(":", 2) for line in f]
    except OSError:
        return None
    limits = []
    for _, controllers, path in (p for p in paths if len(p) == 3):
        if controllers == "":
            # The limits of all ancestors hold; the innermost folder may be hidden by a namespace.
            parts = path.strip("/").split("/")
            folders = ["/sys/fs/cgroup/" + "/".join(parts[:n]) for n in range(len(parts) + 1)]
            for folder in folders:
                try:
                    with open(os.path.join(folder, "cpu.max"), encoding="ascii") as f:
                        quota, period = f.read().split()
                except (OSError, ValueError):
                    continue
                if quota != "max":
                    limits.append(int(quota) / int(period))
        elif "cpu" in controllers.split(","):
            for folder in (f"/sys/fs/cgroup/{controllers}{path}", f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu"):
                try:
                    with open(os.path.join(folder, "cpu.cfs_quota_us"), encoding="ascii") as f:
                        quota_us = int(f.read())
                    with open(os.path.join(folder, "cpu.cfs_period_us"), encoding="ascii") as f:
                        period_us = int(f.read())
                except (OSError, ValueError):
                    continue
                if quota_us > 0:
                    limits.append(quota_us / period_us)
                break
    return min(limits, default=None)


def available_cores() -> float:
    """Cores this process may use; a float because quotas need not be whole."""
    try:
        allowed = float(len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        allowed = float(os.cpu_count() or 1)
    quota = _quota()
    return min(allowed, quota) if quota else allowed
