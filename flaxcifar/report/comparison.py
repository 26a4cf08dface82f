"""Runs side by side, from their own files: results, curves, configs."""

from collections.abc import Sequence

from flaxcifar.report.markup import Code, table
from flaxcifar.report.page import curves, headline, page, rows
from flaxcifar.report.run_files import RunFiles


def of_comparison(runs: Sequence[RunFiles]) -> str:
    """Returns a page with the results, curves and config differences of several runs."""
    sections = {
        "Results": _results(runs),
        "Curves": curves(),
        "What differs": _differences(runs),
    }
    names = ", ".join(run.name for run in runs)
    return page(f"{len(runs)} runs", names, "", sections, {"runs": [rows(run) for run in runs]})


def _results(runs: Sequence[RunFiles]) -> str:
    found = [dict(headline(run)) for run in runs]
    names = list(dict.fromkeys(name for results in found for name in results))
    cells = [
        (run.name, *(results.get(name, "") for name in names))
        for run, results in zip(runs, found, strict=True)
    ]
    return table(("run", *names), cells, sortable=True)


def _differences(runs: Sequence[RunFiles]) -> str:
    changes = [run.changed() for run in runs]
    found = []
    for key in sorted({key for changed in changes for key in changed}):
        default = next(changed[key][0] for changed in changes if key in changed)
        values = [changed[key][1] if key in changed else default for changed in changes]
        if any(value != values[0] for value in values):
            found.append((Code(key), *map(Code, values)))
    if not found:
        return "<p>Nothing: the configs are the same.</p>"
    return table(("key", *(run.name for run in runs)), found)
