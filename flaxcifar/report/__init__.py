"""Writes what a run did as an HTML page: the report of one run, or a comparison of several."""

from collections.abc import Sequence
from pathlib import Path

from flaxcifar.atomic import write_text
from flaxcifar.inference.analysis import read_details
from flaxcifar.report import tensorboard
from flaxcifar.report.comparison import comparison_page
from flaxcifar.report.one_run import run_page
from flaxcifar.report.run_files import read_run, read_runs
from flaxcifar.workdir import names


def write_report(workdir: Path, output: Path | None = None) -> Path:
    """Writes the report of a run and returns its path, by default `report.html` in the workdir.

    A run in progress is shown without the test split, which stays unseen until the run ends.

    Raises:
      UserError: if `workdir` does not hold a run, has no checkpoint, or its dataset cannot be read.
    """
    output = output or workdir / names.REPORT
    run = read_run(workdir)
    write_text(output, run_page(run, read_details(workdir, run.under_way)))
    return output


def conclude_report(workdir: Path) -> Path:
    """Writes a finished run's pictures and results to TensorBoard, then its report.

    Returns the path of the report.
    """
    run, details = read_run(workdir), read_details(workdir)
    tensorboard.write(run, details)
    output = workdir / names.REPORT
    write_text(output, run_page(run, details))
    return output


def write_comparison(workdirs: Sequence[Path], output: Path) -> Path:
    """Writes a page that compares runs and returns its path."""
    write_text(output, comparison_page(read_runs(workdirs)))
    return output
