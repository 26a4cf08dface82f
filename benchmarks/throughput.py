"""Training and inference throughput, side by side.

    python -m benchmarks.throughput --models vgg16,resnet,crcv --precision float32,bfloat16 \\
        --frameworks flaxcifar,keras-tensorflow,keras-jax,keras-torch,torch

All frameworks train the same network with the same optimizer from the same weights on the same
batch, which is on the device. Each has its own process with the same number of threads. The
processes are measured in turns, A B C, C B A, and are idle otherwise. flaxcifar can be measured
with one of its convolution backends and with 4 steps per dispatch: flaxcifar-onednn,
flaxcifar-jax-scan.
"""

import dataclasses
import itertools
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import Job
from benchmarks.processes import Worker, WorkerError, write_arrays
from benchmarks.turns import measure, skip, started
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import RunError, UserError

# Largest relative difference of a first loss from flaxcifar's in float32.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
_FRAMEWORKS = "flaxcifar,keras-tensorflow,keras-jax,keras-torch,torch,torch-compile"

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measures every model in every precision."""
    flags = arguments.parser(
        "throughput", __doc__, models="vgg16,resnet,crcv", frameworks=_FRAMEWORKS
    )
    flags.add_argument(
        "--precision",
        type=arguments.words,
        help="default float32,bfloat16, with --quick float32",
    )
    flags.add_argument("--convolution", default="auto", help="backend of plain `flaxcifar`")
    options = arguments.parse(flags, argv)
    options.precision = options.precision or list(TOLERANCES)[: 1 if options.quick else 2]
    for precision in options.precision:
        if precision not in TOLERANCES:
            raise UserError(
                f"--precision: unknown {precision!r} (there are: {', '.join(TOLERANCES)})"
            )
    jobs = (
        arguments.job(options, model, precision, convolution=options.convolution)
        for model, precision in itertools.product(options.models, options.precision)
    )
    rows = records.collect(options.output, (compare(job, options) for job in jobs))
    report.publish(table(rows), panels(rows), options.output)


def compare(template: Job, options: Namespace) -> list[Row]:
    """Measures all frameworks in turns; returns a row per framework."""
    console.say(f"{template.model}, {template.precision}, batch {template.batch}")
    with tempfile.TemporaryDirectory() as directory:
        template, expected = write_arrays(template, Path(directory))
        jobs = [dataclasses.replace(template, framework=name) for name in options.frameworks]
        with started(jobs) as workers:
            described = {worker: describe(worker, expected) for worker in workers}
            ready = [worker for worker in workers if described[worker]]
            trained = measure(ready, "train", options.rounds, options.seconds)
            inferred = measure(list(trained), "infer", options.rounds, options.seconds / 2)
            # Measured last, because its matrices would count as memory of training.
            rate = images_per_second_at_matrix_rate({w: described[w] for w in inferred})
    counts = {described[worker]["parameters"] for worker in inferred}
    if len(counts) > 1:
        raise RunError(f"the networks have different numbers of parameters: {sorted(counts)}")
    rows = [
        make_row(worker.job, described[worker], trained[worker], inferred[worker], options)
        for worker in inferred
    ]
    return [
        row | {"matrix_share": row["images_per_second"] / rate if rate else None} for row in rows
    ]


def images_per_second_at_matrix_rate(described: Mapping[Worker, Row]) -> float | None:
    """Returns the training rate of an accelerator that runs at its rate of matrix products.

    Returns None on a CPU and without flaxcifar, which measures the rate and counts the FLOPs.
    """
    for worker, found in described.items():
        if found["training_flops"] and found["device"] != "cpu":
            try:
                return worker.ask("matrix_rate")["matrix_rate"] / found["training_flops"]
            except WorkerError as error:
                skip(worker.job, f"matrix products: {error}")
    return None


def describe(worker: Worker, expected_loss: float) -> Row | None:
    """Compiles the steps of a worker and returns its description, or None if it fails."""
    try:
        found = worker.ask("describe")
        off = abs(found["first_loss"] / expected_loss - 1)
        if off > TOLERANCES[worker.job.precision]:
            loss = f"{found['first_loss']:.5f}, not {expected_loss:.5f}"
            skip(worker.job, f"its first loss is {loss}, so its network is a different one")
            return None
        found |= {"first_loss_error": off, **worker.ask("warm_up")}
        worker.ask("infer", steps=1)
    except WorkerError as error:
        skip(worker.job, str(error))
        return None
    console.say(
        f"  {worker.job.framework}: first loss {found['first_loss']:.5f}, "
        f"compiled in {found['compile_seconds']:.1f} s, {found['step_seconds']:.3g} s a step"
    )
    return found


def make_row(
    job: Job, described: Row, trained: Sequence[Row], inferred: Sequence[Row], options: Namespace
) -> Row:
    """Returns the row of a framework, with medians over the turns."""

    def rates(answers: Sequence[Row]) -> list[float]:
        return [job.batch * answer["steps"] / answer["seconds"] for answer in answers]

    train_rates, infer_rates = rates(trained), rates(inferred)
    last = trained[-1]
    return records.common("throughput", job, described) | {
        "images_per_second": statistics.median(train_rates),
        "spread": records.spread(train_rates),
        "n": len(train_rates),
        "steps_per_turn": last["steps"],
        "inference_images_per_second": statistics.median(infer_rates),
        "inference_spread": records.spread(infer_rates),
        "compile_seconds": described["compile_seconds"],
        "peak_memory_mb": last["peak_memory_mb"],
        "peak_device_memory_mb": last["peak_device_memory_mb"],
        "parameters": described["parameters"],
        "first_loss": described["first_loss"],
        "first_loss_error": described["first_loss_error"],
        "idle_cpu_seconds": statistics.median(a["idle_cpu_seconds"] for a in trained),
        "quick": options.quick,
    }


def table(rows: Sequence[Row]) -> Table:
    """Returns the rows as a rich table, with rates relative to the first framework of a group."""
    first: dict[tuple, float] = {}
    cells = []
    for row in rows:
        group = (row["model"], row["precision"])
        reference = first.setdefault(group, row["images_per_second"])
        low, high = row["spread"]["min"], row["spread"]["max"]
        cells.append(
            (
                *group,
                row["framework"],
                f"{row['images_per_second']:,.1f}",
                f"{low:,.0f}-{high:,.0f}",
                f"{row['images_per_second'] / reference:.2f}",
                f"{row['inference_images_per_second']:,.0f}",
                f"{row['peak_memory_mb']:,.0f}",
                f"{row['compile_seconds']:.1f}",
                f"{row['first_loss']:.4f}",
                *([f"{100 * row['matrix_share']:.1f} %"] if row.get("matrix_share") else []),
            )
        )
    columns = ("model", "precision", "framework", "images/s", "range", "ratio")
    columns += ("inferred/s", "peak MB", "compile s", "first loss")
    row = rows[0]
    if row.get("matrix_share"):  # on an accelerator
        columns += ("of matrix rate",)
    title = (
        f"Training on {row['device']}, {row['threads']} threads, batch {row['batch']}, "
        f"median of {row['n']} turns"
    )
    return report.make_table(title, columns, cells)


def panels(rows: Sequence[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: training and inference rates, and memory."""
    training: dict = {}
    inference: dict = {}
    memory: dict = {}
    for row in rows:
        group = f"{row['model']}\n{row['precision']}"

        def bar(key: str, spread: str, row: Row = row) -> tuple[float, float, float]:
            return row[key], row[spread]["min"], row[spread]["max"]

        name = row["framework"]
        training.setdefault(group, {})[name] = bar("images_per_second", "spread")
        inference.setdefault(group, {})[name] = bar(
            "inference_images_per_second", "inference_spread"
        )
        memory.setdefault(group, {})[name] = (row["peak_memory_mb"],) * 3
    return {
        "training, images/s": training,
        "inference, images/s": inference,
        "peak memory, MB": memory,
    }


if __name__ == "__main__":
    run_command(main)
