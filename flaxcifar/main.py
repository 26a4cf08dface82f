"""The train command as a module: `python -m flaxcifar.main` is `flaxcifar train`."""

from flaxcifar.cli import train
from flaxcifar.cli.command import run_command
from flaxcifar.devices.memory import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()
    run_command(train.main)
