import math
import os
from pathlib import Path

import pytest

from flaxcifar.devices.memory import available_memory


def test_all_of_the_machine_without_a_limit(tmp_path):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_memory(tmp_path) == machine
    assert 2**26 < available_memory() <= machine


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(("limit", "expected"), [("1234\n", 1234), ("max\n", math.inf)])
def test_the_limit_of_a_control_group(tmp_path, file, limit, expected):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(limit)
    groups = Path("/proc/self/cgroup").read_text()
    version = ":memory:" if "/" in file else "0::"
    if version not in groups:
        pytest.skip("this process belongs to no such group")
    assert available_memory(tmp_path) == min(expected, available_memory(tmp_path / "none"))
