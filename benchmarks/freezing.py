"""Step time and memory by the share of a network that is frozen.

    python -m benchmarks.freezing --models vgg16 --frameworks flaxcifar,keras-tensorflow

Modules are frozen from the input on: by `param_groups` in flaxcifar, `trainable=False` in Keras and
`requires_grad_(False)` with `eval()` in PyTorch. All levels of a framework are measured in turns,
one framework after another.
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import MODELS, Job
from benchmarks.processes import WorkerError, write_arrays
from benchmarks.turns import measure, skip, started
from flaxcifar import console
from flaxcifar.cli.command import run_command

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measures every model with every framework."""
    flags = arguments.parser(
        "freezing", __doc__, models="vgg16", frameworks="flaxcifar,keras-tensorflow"
    )
    flags.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = arguments.parse(flags, argv)
    rows = records.collect(options.output, measure_all(options))
    report.publish(table(rows), panels(rows), options.output)


def measure_all(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yields the rows of each model in each framework."""
    for model in options.models:
        with tempfile.TemporaryDirectory() as directory:
            job = arguments.job(options, model, options.precision)
            template, _ = write_arrays(job, Path(directory))
            for framework in options.frameworks:
                yield compare(dataclasses.replace(template, framework=framework), options)


def levels(model: str) -> dict[str, str]:
    """Returns the pattern of frozen parameters for each level, by its name."""
    modules = MODELS[model][2]
    result = {"nothing": ""}
    for n, module in enumerate(modules, 1):
        convolutions_end = n == sum(name != "dense" for name in modules)
        words = "all convolutions" if convolutions_end else f"up to {module}"
        result["all but the head" if module == "dense" else words] = "|".join(modules[:n])
    return result


def compare(template: Job, options: argparse.Namespace) -> list[Row]:
    """Measures the levels of one framework in turns; returns a row per level."""
    console.say(f"{template.model}, {template.precision}, {template.framework}")
    patterns = levels(template.model)
    if options.quick:
        patterns = {words: patterns[words] for words in ("nothing", "all convolutions")}
    names = {pattern: words for words, pattern in patterns.items()}
    jobs = [dataclasses.replace(template, frozen=pattern) for pattern in names]
    with started(jobs) as workers:
        described = {}
        for worker in workers:
            try:
                described[worker] = worker.ask("describe") | worker.ask("warm_up")
            except WorkerError as error:
                skip(worker.job, str(error))
        answers = measure(list(described), "train", options.rounds, options.seconds)
    rows = []
    for worker, trained in answers.items():
        rates = [answer["steps"] / answer["seconds"] for answer in trained]
        found, last = described[worker], trained[-1]
        rows.append(
            records.common("freezing", worker.job, found)
            | {
                "frozen": names[worker.job.frozen],
                "pattern": worker.job.frozen,
                "steps_per_second": statistics.median(rates),
                "spread": records.spread(rates),
                "n": len(rates),
                "step_seconds": 1 / statistics.median(rates),
                "compile_seconds": found["compile_seconds"],
                "peak_memory_mb": last["peak_memory_mb"],
                "peak_device_memory_mb": last["peak_device_memory_mb"],
                "quick": options.quick,
            }
        )
    for row in rows:
        row["speedup"] = row["steps_per_second"] / rows[0]["steps_per_second"]
    return rows


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""
    cells = [
        (
            row["model"],
            row["framework"],
            row["frozen"],
            f"{row['step_seconds']:.3f}",
            f"{1 / row['spread']['max']:.3f}-{1 / row['spread']['min']:.3f}",
            f"{row['speedup']:.2f}",
            f"{row['peak_memory_mb']:,.0f}",
            f"{row['compile_seconds']:.1f}",
        )
        for row in rows
    ]
    row = rows[0]
    title = (
        f"Freezing on {row['device']}, {row['threads']} threads, {row['precision']}, "
        f"batch {row['batch']}, median of {row['n']} turns"
    )
    columns = ("model", "framework", "frozen", "s/step", "range", "speedup")
    return report.make_table(title, (*columns, "peak MB", "compile s"), cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: step rate and memory by level."""
    rates: dict = {}
    memory: dict = {}
    for row in rows:
        group = f"{row['model']}\n{row['frozen']}"
        bar = (row["steps_per_second"], row["spread"]["min"], row["spread"]["max"])
        rates.setdefault(group, {})[row["framework"]] = bar
        memory.setdefault(group, {})[row["framework"]] = (row["peak_memory_mb"],) * 3
    return {"steps/s": rates, "peak memory, MB": memory}


if __name__ == "__main__":
    run_command(main)
