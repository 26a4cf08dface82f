"""Trains: python -m flaxcifar.main --config configs/vgg.py [--config.key=value ...] [--workdir DIR]

An interrupted run goes on when the same command, --workdir included, is given again.
"""

import argparse
from pathlib import Path

from flaxcifar import cli, config, huge_pages
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
    flags, overrides = parser.parse_known_args(argv)
    checked = config.load(flags.config, overrides)

    from flaxcifar.train import train_and_evaluate

    name = f"{Path(flags.config).stem}-{checked.data.name}"
    train_and_evaluate(
        checked,
        flags.workdir or fresh_workdir(name),
        strict=flags.strict,
        allow_change=[key for key in flags.allow_change.split(",") if key],
    )


if __name__ == "__main__":
    huge_pages.restart_with_them()
    cli.run(main)
