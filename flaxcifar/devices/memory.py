"""Memory of the host."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory(cgroups: Path = _CGROUPS) -> float:
    """Returns the bytes that this process may use: the machine's memory or its cgroup's limit.

    Args:
      cgroups: where the file system of control groups is mounted.
    """
    if not hasattr(os, "sysconf"):
        return math.inf  # unknown on Windows
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, group = line.split(":", 2)
        root, name = cgroups, "memory.max"
        if controllers:  # cgroup version 1
            root, name = root / "memory", "memory.limit_in_bytes"
        if controllers in ("", "memory"):
            path = root / group.lstrip("/")
            limits += [_limit(folder / name) for folder in (path, *path.parents)]
    return min(limits)


def _limit(path: Path) -> float:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
