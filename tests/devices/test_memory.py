import math
import os
import platform
import subprocess
import sys

import pytest

from flaxcifar.devices import memory

WANTED = "glibc.malloc.hugetlb=1"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns a function that sets up a machine; by default one that huge pages help."""

    def set_up(kernel="always [madvise] never", libc=("glibc", "2.36"), tunables=""):
        file = tmp_path / "enabled"
        if kernel:
            file.write_text(kernel)
        monkeypatch.setattr(memory, "KERNEL_SETTING", file)
        monkeypatch.setattr(platform, "libc_ver", lambda: libc)
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)

    return set_up


def test_asks_glibc_for_huge_pages_and_keeps_other_tunables(machine):
    machine()
    assert memory.huge_pages_environment() == {"GLIBC_TUNABLES": WANTED}
    machine(tunables="glibc.malloc.arena_max=2")
    wanted = {"GLIBC_TUNABLES": f"glibc.malloc.arena_max=2:{WANTED}"}
    assert memory.huge_pages_environment() == wanted


@pytest.mark.parametrize(
    "case",
    [
        dict(kernel="[always] madvise never"),
        dict(kernel="always madvise [never]"),
        dict(kernel=""),
        dict(libc=("glibc", "2.34")),
        dict(libc=("", "")),
        dict(tunables="glibc.malloc.hugetlb=0"),
    ],
)
def test_does_not_restart_if_huge_pages_do_not_help(machine, monkeypatch, case):
    machine(**case)
    assert memory.huge_pages_environment() == {}
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("restarted"))
    memory.restart_with_huge_pages()


def test_restarts_once_with_the_same_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flaxcifar.devices import memory\n"
        f"memory.KERNEL_SETTING = Path({str(tmp_path / 'enabled')!r})\n"
        "memory.platform.libc_ver = lambda: ('glibc', '2.36')\n"
        "print('start', flush=True)\n"
        "memory.restart_with_huge_pages()\n"
        "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:], sys.flags.dev_mode)\n"
    )
    (tmp_path / "enabled").write_text("always [madvise] never")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-X", "dev", script, "--a", "b c"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.split("\n")[:3] == ["start", "start", f"{WANTED} ['--a', 'b c'] True"]


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "1234\n"}, 1234),
        ("0::/job\n", {"job/memory.max": "99", "memory.max": "12"}, 12),
        ("5:cpu:/job\n4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "77"}, 77),
        ("5:cpu:/job\n", {"memory/job/memory.limit_in_bytes": "77"}, math.inf),
        ("0::/job\n", {}, math.inf),
    ],
)
def test_available_memory_is_the_least_of_machine_and_cgroups(
    tmp_path, membership, files, expected
):
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = memory.available_memory(tmp_path / "nothing", tmp_path)
    assert 2**26 < machine < 2**50
    assert memory.available_memory(tmp_path / "self", tmp_path) == min(expected, machine)
