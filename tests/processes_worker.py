"""One process of a run of several, on the tiny dataset: what test_processes.py starts.

python tests/processes_worker.py WORKDIR CHANGES_AS_JSON HOST:PORT N I
"""

import argparse
import json

import tiny

from flaxcifar import data
from flaxcifar.cli.command import run_command
from flaxcifar.devices import processes
from flaxcifar.errors import UserError


def main(argv: list[str]) -> None:
    workdir, changes, coordinator, count, number = argv
    processes.start(
        argparse.Namespace(
            distributed=False,
            coordinator=coordinator,
            num_processes=int(count),
            process_id=int(number),
        )
    )
    changes = json.loads(changes)
    data.load = lambda config: tiny.dataset()
    if changes.pop("without_dataset", False):

        def fail(config):
            raise UserError("no dataset here")

        data.load = fail
    from flaxcifar.training.loop import train_and_evaluate

    with processes.ending_together():
        train_and_evaluate(tiny.config(**changes), workdir)


if __name__ == "__main__":
    run_command(main)
