"""Trains: python -m flaxcifar.main --config configs/vgg.py [--config.key=value ...] [--workdir DIR]

An interrupted run goes on when the same command, --workdir included, is given again.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxcifar import cli, config, hosts, huge_pages
from flaxcifar.errors import UserError
from flaxcifar.workdir import fresh_workdir


def main(argv: list[str]) -> None:
    """Parses flags, checks the config before JAX is imported, and trains."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxcifar.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a Python file that has get_config()")
    parser.add_argument("--workdir", help="where results go, and whence a run is resumed")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to resume from an older checkpoint where the newest is damaged",
    )
    parser.add_argument(
        "--allow_change",
        default="",
        metavar="KEY,...",
        help="config keys that may differ from those that the workdir's run began with",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train N seeds; report mean and spread"
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="train every value of a config key; several times for all combinations",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the plan, with times; write nothing"
    )
    hosts.add_flags(parser)
    flags, overrides = parser.parse_known_args(argv)
    checked = config.load(flags.config, overrides)
    name = f"{Path(flags.config).stem}-{checked.data.name}"
    options = {
        "strict": flags.strict,
        "allow_change": [key for key in flags.allow_change.split(",") if key],
    }
    if flags.seeds < 1:
        raise UserError(f"--seeds is {flags.seeds}; it must be at least 1")
    hosts.start(flags)
    if flags.seeds > 1 or flags.sweep:
        from flaxcifar import sweep

        load = functools.partial(_load, flags.config, overrides)
        runs = sweep.plan(load, [sweep.parse_axis(text) for text in flags.sweep], flags.seeds)
        workdir = Path(flags.workdir or fresh_workdir(f"{name}-sweep"))
        sweep.run_all(runs, workdir, **options)
        return

    if flags.dry_run:
        from flaxcifar.dry_run import dry_run

        dry_run(checked, Path(flags.workdir or fresh_workdir(name)))
        return

    from flaxcifar.train import train_and_evaluate

    with hosts.ending_together():
        train_and_evaluate(checked, flags.workdir or fresh_workdir(name), **options)


def _load(path: str, overrides: Sequence[str], more: Sequence[str]) -> Any:
    return config.load(path, [*overrides, *more])


if __name__ == "__main__":
    huge_pages.restart_with_them()
    cli.run(main)
