"""One process of several that train on the tiny dataset, for test_processes.py.

python tests/processes_worker.py HOST:PORT COUNT NUMBER JOBS_AS_JSON

A job is [workdir, changes of the config]. Both streams get a line with its exit code after it.
"""

import argparse
import json
import sys

import tiny

from flaxcifar.cli.command import run_command
from flaxcifar.devices import processes


def run_job(workdir: str, changes: dict) -> int:
    from flaxcifar.training.loop import train_and_evaluate

    def train(_: list[str]) -> None:
        with processes.ending_together():
            train_and_evaluate(tiny.config(**changes), workdir)

    try:
        run_command(train)
    except SystemExit as end:
        return end.code
    return 0


def main(coordinator: str, count: str, number: str, jobs: str) -> int:
    processes.start(
        argparse.Namespace(
            distributed=False,
            coordinator=coordinator,
            num_processes=int(count),
            process_id=int(number),
        )
    )
    code = 0
    for job in json.loads(jobs):
        code = run_job(*job)
        for stream in (sys.stdout, sys.stderr):
            print(f"\n\x1e{code}", file=stream, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
