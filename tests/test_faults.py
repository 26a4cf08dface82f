"""A short fault injection; `python tests/faults.py` runs a long one."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost(tmp_path):
    script, output = Path(__file__).with_name("faults.py"), tmp_path / "faults.jsonl"
    flags = ["--kills", "8", "--signals", "2", "--configs", "30", "--every", "4", "--seed", "1"]
    flags += ["--saves", "50"]
    flags += ["--output", str(output)]
    # One device: no more is needed to lose a state, and it starts faster.
    environment = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, script, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(output.read_text())
    assert row["states lost"] == row["wrong restores"] == row["tracebacks"] == 0
    for name, tried in row.items():
        if name.endswith(", tried"):
            assert row[name.replace("tried", "survived")] == tried > 0
    assert row["kill -9 at a random moment, tried"] + row["kill -9 within a save, tried"] >= 8
    assert row["damaged file, tried"] >= 15
    for part in ("opt_state", "batch_stats", "step", "ema"):
        assert row[f"{part} left out is noticed, survived"] == 1
