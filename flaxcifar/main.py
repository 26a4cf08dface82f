"""The train command as a module: `python -m flaxcifar.main` is `flaxcifar train`."""

from flaxcifar.cli import train
from flaxcifar.cli.command import run_command
from flaxcifar.devices import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_them()
    run_command(train.main)
