"""One process of a run of several, on the tiny dataset: what test_hosts.py starts.

python tests/hosts_worker.py WORKDIR CHANGES_AS_JSON HOST:PORT N I
"""

import argparse
import json

import tiny

from flaxcifar import cli, data, hosts
from flaxcifar.errors import UserError


def main(argv: list[str]) -> None:
    workdir, changes, coordinator, count, number = argv
    hosts.start(
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
    from flaxcifar.train import train_and_evaluate

    with hosts.ending_together():
        train_and_evaluate(tiny.config(**changes), workdir)


if __name__ == "__main__":
    cli.run(main)
