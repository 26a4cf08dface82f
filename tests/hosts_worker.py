"""One process of a run of several, on the tiny dataset: what test_hosts.py starts.

python tests/hosts_worker.py WORKDIR CHANGES_AS_JSON HOST:PORT N I
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from flaxcifar import cli, data, hosts
from flaxcifar.errors import UserError
from tests import tiny


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
    seed = changes.pop("dataset_seed", 0)
    data.load = lambda config: tiny.dataset(seed=seed)
    if changes.pop("without_dataset", False):

        def fail(config):
            raise UserError("no dataset here")

        data.load = fail
    from flaxcifar.train import train_and_evaluate

    with hosts.ending_together():
        train_and_evaluate(tiny.config(**changes), workdir)


if __name__ == "__main__":
    cli.run(main)
