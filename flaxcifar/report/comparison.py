"""Compares runs by their files: results, curves, configs."""

from collections.abc import Sequence
from typing import Any

from flaxcifar.report.render import render
from flaxcifar.report.results import curves, headline
from flaxcifar.report.run_files import RunFiles


def comparison_page(runs: Sequence[RunFiles]) -> str:
    """Returns a page with the results, curves and config differences of several runs."""
    results = {run.name: {result.name: result for result in headline(run)} for run in runs}
    return render(
        "comparison.html.j2",
        results=results,
        columns=list(dict.fromkeys(name for row in results.values() for name in row)),
        differences=_differences(runs),
        data={"runs": [curves(run) for run in runs]},
    )


def _differences(runs: Sequence[RunFiles]) -> dict[str, list[Any]]:
    """Returns {dotted key: the value of each run} of the config keys in which the runs differ."""
    changes = [run.changed() for run in runs]
    found = {}
    for key in sorted({key for changed in changes for key in changed}):
        default = next(changed[key][0] for changed in changes if key in changed)
        values = [changed[key][1] if key in changed else default for changed in changes]
        if any(value != values[0] for value in values):
            found[key] = values
    return found
