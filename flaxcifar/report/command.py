"""Writes the report of a run, or of several side by side, as one HTML page.

    python -m flaxcifar.report --workdir runs/first
    python -m flaxcifar.report --compare runs/first runs/second

The page needs no server and no network. A run that has not ended is shown as
far as it is, without the test split.
"""

from pathlib import Path

from flaxcifar import console
from flaxcifar.cli.command import Parser, check_folder
from flaxcifar.errors import UserError
from flaxcifar.inference.analysis import read_details
from flaxcifar.report import tensorboard
from flaxcifar.report.comparison import of_comparison
from flaxcifar.report.one_run import of_run
from flaxcifar.report.run_files import read_run, with_names
from flaxcifar.workdir import names
from flaxcifar.workdir.files import write_text


def write_report(workdir: Path, output: Path | None = None) -> Path:
    """Writes the report of a run, by default as `report.html` in its workdir; returns its path.

    Raises UserError where `workdir` is no run's, has no checkpoint, or its dataset is not there.
    """
    output = output or workdir / names.REPORT
    run = read_run(workdir)
    write_text(output, of_run(run, read_details(workdir, run.under_way)))
    return output


def conclude_report(workdir: Path) -> Path:
    """Writes the pictures and results of a run that has ended to TensorBoard, then its report."""
    run, details = read_run(workdir), read_details(workdir)
    tensorboard.write(run, details)
    output = workdir / names.REPORT
    write_text(output, of_run(run, details))
    return output


def write_comparison(workdirs: list[Path], output: Path) -> Path:
    """Writes a page that shows runs side by side; returns its path."""
    write_text(output, of_comparison(with_names(map(read_run, workdirs))))
    return output


def parser() -> Parser:
    """Returns the flags."""
    result = Parser("report", __doc__, "(--workdir DIR | --compare DIR DIR...) [FLAGS]")
    runs = result.add_mutually_exclusive_group(required=True)
    runs.add_argument("--workdir", type=Path, metavar="DIR", help="the directory of a run")
    runs.add_argument("--compare", type=Path, nargs="+", metavar="DIR", help="several of them")
    words = f"default: {names.REPORT} in the workdir; comparison.html here"
    result.add_argument("--output", type=Path, metavar="FILE", help=words)
    return result


def main(argv: list[str]) -> None:
    """Writes one page and says where it is."""
    flags = parser().parse_args(argv)
    check_folder("--output", flags.output)
    if flags.workdir:
        written = write_report(flags.workdir, flags.output)
    elif len(flags.compare) < 2:
        raise UserError("--compare needs two runs at least")
    else:
        written = write_comparison(flags.compare, flags.output or Path("comparison.html"))
    console.say(f"written: {written} ({written.stat().st_size / 1e6:.2g} MB)")
