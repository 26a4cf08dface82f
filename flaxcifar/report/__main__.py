"""python -m flaxcifar.report"""

from flaxcifar import cli
from flaxcifar.report import main

cli.run(main)
