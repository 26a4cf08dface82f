"""Writes what a run did as an HTML page: the report of one run, or a comparison of several."""

from pathlib import Path

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
