"""Memory of the host: how much the process may use, and huge pages for it.

XLA takes the memory of a step's intermediate results from malloc and gives it back after every
step. glibc asks the kernel for it again each time, and each of its small pages is a fault: a
hundred thousand in a step of a VGG16, a fifth of its time. 2 MiB pages avoid nearly all of them.
glibc reads the setting only when a process starts.
"""

import math
import os
import platform
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TUNABLE = "glibc.malloc.hugetlb"
KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages_environment() -> dict[str, str]:
    """Returns the environment variables that give a new process huge pages.

    Empty if they do not help: glibc is older than 2.35 or not the C library, the kernel always or
    never uses huge pages, or the user has set the tunable.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _kernel_waits_to_be_asked():
        return {}
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return {}
    return {"GLIBC_TUNABLES": ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))}


def restart_with_huge_pages() -> None:
    """Replaces this process by the same command with huge pages; returns if they do not help.

    Call it before heavy imports. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` prevents the restart.
    """
    wanted = huge_pages_environment()
    if wanted:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def _kernel_waits_to_be_asked() -> bool:
    return KERNEL_SETTING.exists() and "[madvise]" in KERNEL_SETTING.read_text()


def available_memory(
    membership: Path = Path("/proc/self/cgroup"), cgroups: Path = Path("/sys/fs/cgroup")
) -> float:
    """Returns how many bytes of memory this process may use: the machine's or its cgroup's.

    Args:
      membership: the file that names the process's cgroups.
      cgroups: where the cgroups are mounted.
    """
    if not hasattr(os, "sysconf"):
        return math.inf  # Windows does not say
    limits: list[float] = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        root, name = cgroups, "memory.max"
        if controllers:  # cgroup v1
            root, name = root / "memory", "memory.limit_in_bytes"
        if controllers in ("", "memory"):
            path = root / group.lstrip("/")
            limits += [_read_limit(place / name) for place in (path, *path.parents)]
    return min(limits)


def peak_memory() -> int | None:
    """Returns the most bytes of memory that this process has had, or None on Windows."""
    if resource is None:
        return None
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _read_limit(path: Path) -> float:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no file, or it says "max"
        return math.inf
