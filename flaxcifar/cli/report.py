"""Writes the report of a run, or a comparison of several, as one HTML page.

    flaxcifar report --workdir runs/first
    flaxcifar report --compare runs/first runs/second

The page needs no server and no network. The report of a run in progress leaves
the test split out.
"""

from pathlib import Path

from flaxcifar import console
from flaxcifar.cli.command import Parser, check_folder
from flaxcifar.errors import UserError
from flaxcifar.report import write_comparison, write_report
from flaxcifar.workdir import names


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("report", __doc__, "(--workdir DIR | --compare DIR DIR...) [FLAGS]")
    runs = result.add_mutually_exclusive_group(required=True)
    runs.add_argument("--workdir", type=Path, metavar="DIR", help="the workdir of a run")
    runs.add_argument("--compare", type=Path, nargs="+", metavar="DIR", help="two runs or more")
    words = f"default: {names.REPORT} in the workdir, or ./comparison.html"
    result.add_argument("--output", type=Path, metavar="FILE", help=words)
    return result


def main(argv: list[str]) -> None:
    """Writes one page and prints its path."""
    flags = parser().parse_args(argv)
    check_folder("--output", flags.output)
    if flags.workdir:
        written = write_report(flags.workdir, flags.output)
    elif len(flags.compare) < 2:
        raise UserError("--compare needs at least two runs")
    else:
        written = write_comparison(flags.compare, flags.output or Path("comparison.html"))
    console.say(f"written: {written} ({written.stat().st_size / 1e6:.2g} MB)")
