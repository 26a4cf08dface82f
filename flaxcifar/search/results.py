"""Summarizes the runs of a sweep: statistics over seeds, the best setting, a table and a plot."""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy.stats

from flaxcifar import console
from flaxcifar.search.plan import Run
from flaxcifar.workdir.summary_file import read_summary

# One setting: its name, values, seeds, failures, seconds, and `spread` of each metric.
Row = dict[str, Any]

_MARKERS = {"validation": "o", "test": "s", "test_augmented": "^"}


def summarize(runs: Sequence[Run], workdir: Path, failures: Sequence[str | None]) -> list[Row]:
    """Returns a row per setting, from the summaries of its runs.

    Args:
      runs: in the order of `plan`.
      workdir: of the sweep.
      failures: one error message per run, None if it succeeded.
    """
    rows = []
    for setting, group in itertools.groupby(
        zip(runs, failures, strict=True), key=lambda member: member[0].setting
    ):
        members = list(group)
        summaries = [read_summary(workdir / run.name) for run, failed in members if not failed]
        found = [summary for summary in summaries if summary]
        row: Row = {
            "setting": setting,
            "values": dict(members[0][0].values),
            "seeds": [run.config.seed for run, _ in members],
            "failed": [failed for _, failed in members if failed],
            "seconds": [summary["timing"]["total_seconds"] for summary in found],
        }
        for split in _MARKERS:
            for metric in ("accuracy", "top5_accuracy", "loss"):
                values = [summary[split][metric] for summary in found if summary[split]]
                if values:
                    row[f"{split}_{metric}"] = spread(values)
        rows.append(row)
    return rows


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Returns the mean of values, their standard deviation and a confidence interval.

    Returns:
      A dict with `values`, `n`, `mean`, `deviation` (of the sample) and `interval`, the 95 %
      confidence interval of the mean by Student's t-distribution. The last two are None if n = 1.
    """
    values = list(values)
    n, mean = len(values), statistics.fmean(values)
    result = {"values": values, "n": n, "mean": mean, "deviation": None, "interval": None}
    if n > 1:
        deviation = statistics.stdev(values)
        reach = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        result |= {"deviation": deviation, "interval": [mean - reach, mean + reach]}
    return result


def choose(rows: Sequence[Row], config: Any) -> Row | None:
    """Returns the row with the best mean validation metric among those without failed seeds.

    The metric and its direction are those of `config.early_stopping`.
    """
    stopping = config.early_stopping
    key = f"validation_{stopping.metric}"
    whole = [row for row in rows if not row["failed"] and key in row]
    better = max if stopping.mode == "max" else min
    return better(whole, key=lambda row: row[key]["mean"], default=None)


def table(rows: Sequence[Row], best: Row | None) -> console.Table:
    """Returns a table of each setting's accuracies: mean, deviation and confidence interval."""
    columns = [f"{split}_accuracy" for split in _MARKERS]
    columns = [key for key in columns if any(key in row for row in rows)]
    cells = [
        (
            (row["setting"] or "-") + (" (best)" if row is best else ""),
            f"{len(row['seeds'])}" + (f", {len(row['failed'])} failed" if row["failed"] else ""),
            *(_in_words(row[key]) if key in row else "" for key in columns),
            f"{statistics.fmean(row['seconds']):,.0f}" if row["seconds"] else "",
        )
        for row in rows
    ]
    headings = ("setting", "seeds", *(key.replace("_", " ") for key in columns), "seconds")
    title = "accuracy: mean ± deviation [95 % interval] over seeds"
    return console.table(title, headings, cells)


def _in_words(found: Mapping[str, Any]) -> str:
    mean = console.percent(found["mean"])
    if found["deviation"] is None:
        return mean
    low, high = found["interval"]
    return f"{mean} ± {100 * found['deviation']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws the accuracy of each seed, one line per setting, with the mean and its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for split, marker in _MARKERS.items():
        key = f"{split}_accuracy"
        color: Any = None
        label: str | None = split.replace("_", " ")
        for place, row in enumerate(rows):
            if key not in row:
                continue
            values, mean = [100 * x for x in row[key]["values"]], 100 * row[key]["mean"]
            drawn = axes.plot(
                values, [place] * len(values), marker, alpha=0.5, color=color, label=label
            )
            color, label = drawn[0].get_color(), None
            reach = 100 * row[key]["interval"][1] - mean if row[key]["interval"] else 0
            axes.errorbar(mean, place, xerr=reach, fmt="|", capsize=4, markersize=14, color=color)
    axes.set_yticks(range(len(rows)), [row["setting"] or "all seeds" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, %")
    axes.grid(axis="x", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=150)
