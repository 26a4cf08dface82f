import os
import platform
import subprocess
import sys

import pytest

from flaxcifar.devices import huge_pages

WANTED = "glibc.malloc.hugetlb=1"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns a function that sets what `huge_pages` finds; without arguments pages help."""

    def set_up(kernel="always [madvise] never", libc=("glibc", "2.36"), tunables=""):
        file = tmp_path / "enabled"
        if kernel:
            file.write_text(kernel)
        monkeypatch.setattr(huge_pages, "_KERNEL", file)
        monkeypatch.setattr(platform, "libc_ver", lambda: libc)
        monkeypatch.setenv("GLIBC_TUNABLES", tunables)

    return set_up


def test_asks_glibc_for_huge_pages(machine):
    machine()
    assert huge_pages.environment() == {"GLIBC_TUNABLES": WANTED}


def test_keeps_other_tunables(machine):
    machine(tunables="glibc.malloc.arena_max=2")
    assert huge_pages.environment() == {"GLIBC_TUNABLES": f"glibc.malloc.arena_max=2:{WANTED}"}


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
def test_leaves_alone_where_they_do_not_help(machine, monkeypatch, case):
    machine(**case)
    assert huge_pages.environment() == {}
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("restarted"))
    huge_pages.restart_with_them()


def test_restarts_once_with_the_same_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flaxcifar import huge_pages\n"
        f"huge_pages._KERNEL = Path({str(tmp_path / 'enabled')!r})\n"
        "huge_pages.platform.libc_ver = lambda: ('glibc', '2.36')\n"
        "print('start', flush=True)\n"
        "huge_pages.restart_with_them()\n"
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
