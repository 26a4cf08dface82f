"""The report of one run."""

from flaxcifar.config.changes import flatten
from flaxcifar.inference.analysis import Details
from flaxcifar.report import predictions
from flaxcifar.report.render import render
from flaxcifar.report.results import Result, curves, headline, share
from flaxcifar.report.run_files import RunFiles


def run_page(run: RunFiles, details: Details) -> str:
    """Returns the report of one run as HTML."""
    return render(
        "run.html.j2",
        run=run,
        details=details,
        results=_results(run, details),
        confused=predictions.confused(details),
        classes=predictions.by_class(details),
        superclasses=predictions.by_superclass(details),
        bins=predictions.bins(details.calibration),
        mistakes=predictions.film(details.mistakes),
        random=predictions.film(details.random),
        changed=run.changed(),
        config=flatten(run.config),
        data={"runs": [curves(run)], **predictions.drawn(details)},
    )


def _results(run: RunFiles, details: Details) -> list[Result]:
    if run.history:
        return headline(run)
    # Imported weights have no metrics of their own.
    accuracy = details.matrix.trace() / details.matrix.sum()
    return [share(f"{details.split.capitalize()} accuracy", accuracy)]
