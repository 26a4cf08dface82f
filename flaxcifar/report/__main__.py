"""python -m flaxcifar.report"""

from flaxcifar.cli.command import run_command
from flaxcifar.report import main

run_command(main)
