"""Trains a config, or goes on where the same command was interrupted.

    python -m flaxcifar.main --config configs/vgg.py --workdir runs/first \\
        --config.total_epochs=50 --config.optimizer.learning_rate=0.05
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxcifar import config
from flaxcifar.cli.command import Parser, run_command
from flaxcifar.devices import huge_pages, processes
from flaxcifar.errors import UserError
from flaxcifar.workdir.files import fresh_workdir


def parser() -> Parser:
    """Returns the flags; what it leaves are values of config keys."""
    result = Parser("main", __doc__, "--config FILE [--config.KEY=VALUE ...] [FLAGS]")
    add = result.add_argument
    add("--config", required=True, metavar="FILE", help="a Python file that has get_config()")
    add("--workdir", metavar="DIR", help="for results and checkpoints; default: new, in runs/")
    add("--dry_run", action="store_true", help="print the plan, with times; write nothing")
    add("--seeds", type=int, default=1, metavar="N", help="train N seeds: mean and spread")
    words = "train every value of a config key; may be repeated"
    add("--sweep", action="append", default=[], metavar="KEY=A,B", help=words)
    words = "keys that may differ from the workdir's run"
    add("--allow_change", default="", metavar="KEY,...", help=words)
    add("--strict", action="store_true", help="refuse to resume where the newest is damaged")
    processes.add_flags(result)
    return result


def main(argv: list[str]) -> None:
    """Parses flags, checks the config before JAX is imported, and trains."""
    flags, overrides = parser().parse_known_args(argv)
    checked = config.load(flags.config, overrides)
    name = f"{Path(flags.config).stem}-{checked.data.name}"
    options = {
        "strict": flags.strict,
        "allow_change": [key for key in flags.allow_change.split(",") if key],
    }
    if flags.seeds < 1:
        raise UserError(f"--seeds is {flags.seeds}; it must be at least 1")
    processes.start(flags)
    if flags.seeds > 1 or flags.sweep:
        from flaxcifar.search import sweep

        load = functools.partial(_load, flags.config, overrides)
        runs = sweep.plan(load, [sweep.parse_axis(text) for text in flags.sweep], flags.seeds)
        workdir = Path(flags.workdir or fresh_workdir(f"{name}-sweep"))
        sweep.run_all(runs, workdir, **options)
        return

    if flags.dry_run:
        from flaxcifar.cli.dry_run import dry_run

        dry_run(checked, Path(flags.workdir or fresh_workdir(name)))
        return

    from flaxcifar.training.loop import train_and_evaluate

    with processes.ending_together():
        train_and_evaluate(checked, flags.workdir or fresh_workdir(name), **options)


def _load(path: str, overrides: Sequence[str], more: Sequence[str]) -> Any:
    return config.load(path, [*overrides, *more])


if __name__ == "__main__":
    huge_pages.restart_with_them()
    run_command(main)
