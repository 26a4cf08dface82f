"""Writes the tables and plots of benchmarks/RESULTS.md from benchmarks/results/.

    python -m benchmarks.page

The page shows the latest run of each model, precision, batch size and device of a benchmark. A
table has only frameworks that were measured in one run. Rows of --quick are left out.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import (
    checkpoints,
    freezing,
    input_pipeline,
    records,
    report,
    scaling,
    startup,
    throughput,
    time_to_accuracy,
)
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

BENCHMARKS = {
    "throughput": throughput,
    "input_pipeline": input_pipeline,
    "freezing": freezing,
    "startup": startup,
    "time_to_accuracy": time_to_accuracy,
    "checkpoints": checkpoints,
    "scaling": scaling,
}

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Writes the page and the plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=records.RESULTS)
    results = parser.parse_args(argv).results
    page = results.parent / "RESULTS.md"
    if not page.exists():
        raise UserError(f"{page} does not exist: --results must name the folder next to it")
    text = page.read_text()
    for name, module in BENCHMARKS.items():
        path = results / f"{name}.jsonl"
        runs = latest(path.read_text().splitlines()) if path.exists() else []
        text = fill(text, name, [section(module, rows) for rows in runs] or ["Not measured yet."])
        if runs:
            report.draw(
                module.panels([row for rows in runs for row in rows]), path.with_suffix(".png")
            )
    page.write_text(text)
    console.say(f"written: {page}")


def latest(lines: list[str]) -> list[list[Row]]:
    """Returns the rows of the last run of each model, precision, batch and device, as lists."""
    runs: dict[tuple, list[Row]] = {}
    for row in map(json.loads, lines):
        if row["quick"]:
            continue
        group = row["model"], row["precision"], row["batch"], row["device"]
        if group in runs and runs[group][0]["run"] == row["run"]:
            runs[group].append(row)
        else:
            runs[group] = [row]
    return list(runs.values())


def section(module: Any, rows: list[Row]) -> str:
    """Returns the table of a run in Markdown, with dataset, commit, date and versions."""
    table = module.table(rows)
    versions = dict(item for row in rows for item in row["versions"].items())
    circumstances = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    row = rows[0]
    return (
        f"**{table.title}**\n\n{markdown(table)}\n\n"
        f"Dataset {row['dataset']}, commit {row['commit']}, {row['run'][:10]}; {circumstances}."
    )


def markdown(table: Table) -> str:
    """Returns a table in Markdown."""
    columns = table.columns
    rule = ["---:" if column.justify == "right" else "---" for column in columns]
    lines = [[str(column.header) for column in columns], rule]
    lines += zip(*(map(str, column.cells) for column in columns), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(text: str, name: str, sections: list[str]) -> str:
    """Returns the page with the part between the two comments of a benchmark replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UserError(f"RESULTS.md must have {begin} and {end} exactly once")
    inside = "\n\n".join(sections)
    return pattern.sub(lambda _: f"{begin}\n\n{inside}\n\n{end}", text)


if __name__ == "__main__":
    run_command(main)
