"""One process of several that train on the tiny dataset, for test_processes.py."""

import argparse
import os
import sys
from pathlib import Path

import jax
import tiny

from flaxcifar.cli.command import run_command
from flaxcifar.devices import processes
from flaxcifar.training.loop import train_and_evaluate

Job = tuple[str, dict]  # a workdir and the changes of the config


def run_job(workdir: str, changes: dict) -> int:
    def train(_: list[str]) -> None:
        with processes.ending_together():
            train_and_evaluate(tiny.config(**changes), workdir)

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
