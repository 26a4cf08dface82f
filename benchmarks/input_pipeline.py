"""Cost of input pipelines and augmentation: training loops compared with their bare step.

    python -m benchmarks.input_pipeline --models crcv,vgg16

flaxcifar runs `api.train` with the host and the resident pipeline, with and without the
augmentation of the recipe, and with images read from disk; the rate is that of its summary. Keras
runs `fit` on tf.data without augmentation, then with the same augmentation in preprocessing layers
and in an ImageDataGenerator (NumPy and SciPy). Rates are also given relative to the bare step in
the same turn: the same step on a batch that stays on the device.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import Job
from benchmarks.processes import Worker, WorkerError, compilation_cache, write_arrays
from benchmarks.turns import rounds, skip, started
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

BARE = "bare step"
# Arguments of each framework's `fit`, by the name of the loop.
LOOPS = {
    "flaxcifar": {
        "host": dict(pipeline="host", augment=False),
        "host, augmented": dict(pipeline="host", augment=True),
        "from disk, augmented": dict(pipeline="host", augment=True, memory_gb=1e-3),
        "resident": dict(pipeline="resident", augment=False),
        "resident, augmented": dict(pipeline="resident", augment=True),
    },
    "keras": {
        "tf.data": dict(pipeline="tf.data"),
        "ImageDataGenerator": dict(pipeline="generator"),
        "preprocessing layers": dict(pipeline="layers"),
    },
}

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measures every model with every framework."""
    flags = arguments.parser(
        "input_pipeline", __doc__, models="crcv,vgg16", frameworks="flaxcifar,keras-tensorflow"
    )
    flags.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    options = arguments.parse(flags, argv)
    for framework in options.frameworks:
        if Job(framework).family not in LOOPS:
            raise UserError(f"--frameworks: {framework} has no training loop of its own to measure")
    jobs = (arguments.job(options, model, options.precision) for model in options.models)
    rows = records.collect(options.output, (compare(job, options) for job in jobs))
    report.publish(table(rows), panels(rows), options.output)


def compare(template: Job, options: argparse.Namespace) -> list[Row]:
    """Measures all frameworks in turns; returns a row per loop of each framework."""
    console.say(f"{template.model}, {template.precision}, batch {template.batch}")
    with tempfile.TemporaryDirectory() as directory:
        template, _ = write_arrays(template, Path(directory))
        jobs = [dataclasses.replace(template, framework=name) for name in options.frameworks]
        # Every run compiles its step; with a cache it does so once.
        with started(jobs, compilation_cache(Path(directory) / "compiled")) as workers:
            described, steps = {}, {}
            for worker in workers:
                try:
                    described[worker] = worker.ask("describe") | worker.ask("warm_up")
                    seconds = described[worker]["step_seconds"]
                    steps[worker] = max(4, math.ceil(options.seconds / seconds))
                    for loop in LOOPS[worker.job.family].values():
                        worker.ask("fit", steps=2, **loop)
                except WorkerError as error:
                    described.pop(worker, None)
                    skip(worker.job, str(error))
            turns: dict[Worker, list[dict[str, float]]] = {worker: [] for worker in described}
            for worker in rounds(list(described), options.rounds):
                turns[worker].append(turn(worker, steps[worker], len(turns[worker])))
    return [
        make_row(worker.job, described[worker], name, steps[worker], turns[worker], options)
        for worker in described
        for name in (BARE, *LOOPS[worker.job.family])
    ]


def turn(worker: Worker, steps: int, number: int) -> dict[str, float]:
    """Measures the bare step and every loop once; returns their images/s.

    The bare step is measured before and after the loops, whose order alternates between turns.
    """

    def bare() -> float:
        answer = worker.ask("train", steps=steps)
        return worker.job.batch * answer["steps"] / answer["seconds"]

    loops = list(LOOPS[worker.job.family].items())
    worker.ask("train", steps=1)  # the first step after a pause is slow, as in `turns.measure`
    before, rates = bare(), {}
    for name, loop in loops if number % 2 == 0 else reversed(loops):
        rates[name] = worker.ask("fit", steps=steps + 1, **loop)["images_per_second"]
    return {BARE: (before + bare()) / 2, **rates}


def make_row(
    job: Job,
    described: Row,
    name: str,
    steps: int,
    turns: list[dict[str, float]],
    options: argparse.Namespace,
) -> Row:
    """Returns the row of a loop, with medians over the turns."""
    rates = [turn[name] for turn in turns]
    shares = [turn[name] / turn[BARE] for turn in turns]
    augmented = LOOPS[job.family].get(name, {})
    return records.common("input_pipeline", job, described) | {
        "pipeline": name,
        "augmented": augmented.get("augment", augmented.get("pipeline") in ("generator", "layers")),
        "images_per_second": statistics.median(rates),
        "spread": records.spread(rates),
        "share_of_bare_step": statistics.median(shares),
        "share_spread": records.spread(shares),
        "n": len(turns),
        "steps_per_turn": steps,
        "quick": options.quick,
    }


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""
    cells = [
        (
            row["model"],
            row["framework"],
            row["pipeline"],
            f"{row['images_per_second']:,.1f}",
            f"{row['spread']['min']:,.0f}-{row['spread']['max']:,.0f}",
            f"{row['share_of_bare_step']:.3f}",
            f"{row['share_spread']['min']:.3f}-{row['share_spread']['max']:.3f}",
        )
        for row in rows
    ]
    row = rows[0]
    title = (
        f"Training loops on {row['device']}, {row['threads']} threads, {row['precision']}, "
        f"batch {row['batch']}, median of {row['n']} turns"
    )
    columns = ("model", "framework", "pipeline", "images/s", "range", "of the bare step", "range")
    return report.make_table(title, columns, cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: rates, and rates relative to the bare step."""
    rates: dict = {}
    shares: dict = {}
    for row in rows:
        group = f"{row['model']}\n{row['framework']}"
        bar = (row["images_per_second"], row["spread"]["min"], row["spread"]["max"])
        rates.setdefault(group, {})[row["pipeline"]] = bar
        share = (row["share_of_bare_step"], row["share_spread"]["min"], row["share_spread"]["max"])
        shares.setdefault(group, {})[row["pipeline"]] = share
    return {"images/s": rates, "share of the bare step": shares}


if __name__ == "__main__":
    run_command(main)
