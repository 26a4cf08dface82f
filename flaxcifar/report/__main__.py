"""python -m flaxcifar.report"""

from flaxcifar import cli
from flaxcifar.report.command import main

cli.run(main)
