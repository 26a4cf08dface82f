"""One process of several that train on the tiny dataset, for test_processes.py."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tiny

from flaxcifar.cli.command import run_command
from flaxcifar.devices import processes
from flaxcifar.training.callbacks import Callback, Run
from flaxcifar.training.loop import train_and_evaluate

# A workdir and the changes of the config, with the epoch after which a callback stops, `stop_at`.
Job = tuple[str, dict]


class StopAt(Callback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_epoch_end(self, run: Run, row: Mapping[str, Any]) -> bool:
        print(f"callback: epoch {row['epoch']}")
        return row["epoch"] == self.epoch


def run_job(workdir: str, changes: dict) -> int:
    config = tiny.config(**{key: value for key, value in changes.items() if key != "stop_at"})
    callbacks = [StopAt(changes["stop_at"])] if "stop_at" in changes else []

    def train(_: list[str]) -> None:
        with processes.ending_together():
            train_and_evaluate(config, workdir, callbacks=callbacks)

    try:
        run_command(train)
    except SystemExit as end:
        return end.code
    return 0


def main(
    coordinator: str, count: int, number: int, devices: int, jobs: list[Job], output: Path
) -> None:
    """Runs the jobs, then exits with the code of the last one.

    The streams go to the files `output`.out and .err; both get a line with a job's exit code after
    the job.
    """
    for stream, suffix in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    processes.start(
        argparse.Namespace(
            distributed=False, coordinator=coordinator, num_processes=count, process_id=number
        )
    )
    code = 0
    for job in jobs:
        code = run_job(*job)
        for stream in (sys.stdout, sys.stderr):
            print(f"\n\x1e{code}", file=stream, flush=True)
    sys.exit(code)
