"""Trains a config. The same command resumes an interrupted run.

    flaxcifar train --config vgg --workdir runs/first \\
        --config.total_epochs=50 --config.optimizer.learning_rate=0.05
"""

import argparse
import functools
from pathlib import Path
from typing import Any

from flaxcifar import config
from flaxcifar.cli.command import Parser
from flaxcifar.devices import processes
from flaxcifar.errors import UserError
from flaxcifar.workdir.run_folder import fresh_workdir


def parser() -> Parser:
    """Returns the flags; unknown arguments are values of config keys."""
    result = Parser("train", __doc__, "--config CONFIG [--config.KEY=VALUE ...] [FLAGS]")
    add = result.add_argument
    result.add_config(required=True)
    add("--workdir", metavar="DIR", help="for results and checkpoints; default: new, in runs/")
    add("--dry_run", action="store_true", help="print the plan, with times; write nothing")
    add("--seeds", type=int, default=1, metavar="N", help="train N seeds: mean and spread")
    words = "train every value of a config key; may be repeated"
    add("--sweep", action="append", default=[], metavar="KEY=A,B", help=words)
    words = "keys that may differ from the workdir's run"
    add("--allow_change", default="", metavar="KEY,...", help=words)
    add("--strict", action="store_true", help="fail if the newest checkpoint is damaged")
    processes.add_flags(result)
    return result


def main(argv: list[str]) -> None:
    """Checks the config before JAX is imported, then trains, sweeps or prints the plan."""
    flags, overrides = parser().parse_known_args(argv)
    settings = config.load(flags.config, overrides)
    name = f"{Path(flags.config).stem}-{settings.data.name}"
    options = {
        "strict": flags.strict,
        "allow_change": [key for key in flags.allow_change.split(",") if key],
    }
    if flags.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {flags.seeds}")
    processes.start(flags)
    if flags.seeds > 1 or flags.sweep:
        workdir = Path(flags.workdir or fresh_workdir(f"{name}-sweep"))
        _sweep(flags, overrides, workdir, options)
        return

    workdir = Path(flags.workdir or fresh_workdir(name))
    if flags.dry_run:
        from flaxcifar.cli.dry_run import dry_run

        dry_run(settings, workdir)
        return

    from flaxcifar import api

    with processes.ending_together():
        api.train(settings, workdir, **options)


def _sweep(
    flags: argparse.Namespace, overrides: list[str], workdir: Path, options: dict[str, Any]
) -> None:
    from flaxcifar import api
    from flaxcifar.search.plan import parse_axis, plan
    from flaxcifar.search.run import run_all

    def load(more: list[str]) -> Any:
        return config.load(flags.config, [*overrides, *more])

    runs = plan(load, [parse_axis(text) for text in flags.sweep], flags.seeds)
    run_all(runs, workdir, functools.partial(api.train, **options))
