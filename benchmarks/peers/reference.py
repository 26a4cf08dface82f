"""Writes the arrays that all frameworks start from and prints the loss; reads a job from stdin.

python -m benchmarks.peers.reference ARRAYS.npz
"""

import json
import sys
from pathlib import Path

from benchmarks.jobs import Job
from benchmarks.peers.flaxcifar_peer import write_arrays
from flaxcifar.cli.command import run_command


def main(argv: list[str]) -> None:
    """Prints the loss on the last line."""
    print(write_arrays(Job(**json.load(sys.stdin)), Path(argv[0])))


if __name__ == "__main__":
    run_command(main)
