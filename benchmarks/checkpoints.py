"""Cost of a checkpoint for the training that continues while it is written.

    python -m benchmarks.checkpoints --models vgg16

Stretches of steps that start with a save alternate with stretches without one. Each is long enough
for the save to finish. The cost of a save is the time for which it blocks the loop, plus the
slowdown of the steps while the files are written. Both are medians over the pairs of stretches,
for each step separately, so that single slow steps do not matter.
"""

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import Job
from benchmarks.processes import run_module
from benchmarks.worker import answer, use_threads
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

Row = dict[str, Any]
_INTERVAL = 30.0  # seconds between two saves


def main(argv: list[str]) -> None:
    """Measures every model, each in a process of its own."""
    if argv == ["--worker"]:
        answer(work)
        return
    flags = arguments.parser("checkpoints", __doc__, models="vgg16", frameworks="flaxcifar")
    options = arguments.parse(flags, argv)
    if options.frameworks != ["flaxcifar"]:
        raise UserError("--frameworks: only flaxcifar can be measured")
    rows = records.collect(options.output, ([measure(m, options)] for m in options.models))
    report.publish(table(rows), panels(rows), options.output)


def measure(model: str, options: argparse.Namespace) -> Row:
    """Measures a model in a process of its own and returns its row."""
    job = arguments.job(options, model, "float32")
    request = {"job": dataclasses.asdict(job), "pairs": 5 * options.rounds}
    request["seconds"] = options.seconds
    found = run_module(job, request, "benchmarks.checkpoints", "--worker")
    return make_row(job, found, options.quick)


def work(job: dict[str, Any], pairs: int, seconds: float) -> Row:
    """Measures pairs of stretches with and without a save.

    Returns:
      The seconds of the save and of each step, by stretch, and a description of the process.
    """
    from benchmarks.peers import flaxcifar_peer

    job = Job(**job)
    use_threads(job.threads)
    return _measure_pairs(job, pairs, seconds) | flaxcifar_peer.described()


def _measure_pairs(job: Job, pairs: int, seconds: float) -> Row:
    import jax
    import numpy as np

    from benchmarks.jobs import recipe
    from flaxcifar.devices import parallel
    from flaxcifar.training.experiment import build
    from flaxcifar.training.run_state import start
    from flaxcifar.training.step import train_steps
    from flaxcifar.workdir.checkpoints import Checkpoints

    experiment = build(recipe(job))
    step = functools.partial(train_steps, experiment.recipe)
    compiled = parallel.pmap(step, replicated=5, batch_axis=1, donate=(1,))
    placed = parallel.replicate(start(experiment) | {"hyperparams": experiment.hyperparams})
    state, zero, hyperparams = placed["state"], placed["metrics"], placed["hyperparams"]
    index = experiment.epoch_batches(0)[:1]
    split = experiment.dataset.train
    batch = {"image": split.images[index], "label": split.labels[index], "index": index}

    def stretch(state, steps, save):
        ends = [time.perf_counter()]
        save(state)
        ends.append(time.perf_counter())
        for _ in range(steps):
            state, metrics = compiled(hyperparams, state, zero, {}, np.int32(1), batch)
            jax.block_until_ready(metrics)
            ends.append(time.perf_counter())
        return state, np.diff(ends).tolist()

    state, _ = stretch(state, 2, lambda state: None)
    state, pace = stretch(state, 2, lambda state: None)
    steps = max(2, round(seconds / (sum(pace) / 2)))
    taken: dict[bool, list[list[float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as directory, Checkpoints(directory) as checkpoints:
        number = 0

        def save(state):
            nonlocal number
            number += 1
            arrays = {"state": state, "metrics": zero}
            checkpoints.save_latest(number, arrays, {"best_step": 0})

        for pair in range(pairs):
            for saving in (True, False) if pair % 2 else (False, True):
                state, one = stretch(state, steps, save if saving else lambda state: None)
                taken[saving].append(one)
                began = time.perf_counter()
                checkpoints.wait()
                if time.perf_counter() - began > 0.05:
                    raise RuntimeError(f"--seconds: a save takes longer than {steps} steps")
        files = [path for path in Path(directory).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / len(list(Path(directory).glob("*/*/*")))
    return {
        "with": taken[True],
        "without": taken[False],
        "steps": steps,
        "megabytes": size / 1e6,
    }


def make_row(job: Job, found: Row, quick: bool) -> Row:
    """Returns the row of a model: the cost of a save, and its share for one every 30 seconds."""
    pairs = zip(found["with"], found["without"], strict=True)
    costs = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
    stop, *later = (statistics.median(column) for column in zip(*costs, strict=True))
    cost = stop + sum(later)
    return records.common("checkpoints", job, found) | {
        "seconds_per_save": cost,
        "stop_seconds": stop,
        "spread": records.spread([sum(pair) for pair in costs]),
        "n": len(costs),
        "steps_per_stretch": found["steps"],
        "stretch_seconds": statistics.median(map(sum, found["without"])),
        "megabytes": found["megabytes"],
        "share_of_30_seconds": cost / _INTERVAL,
        "quick": quick,
    }


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""
    cells = [
        (
            row["model"],
            f"{row['megabytes']:,.0f}",
            f"{row['seconds_per_save']:.3f}",
            f"{row['spread']['q1']:.3f} to {row['spread']['q3']:.3f}",
            console.percent(row["share_of_30_seconds"]),
        )
        for row in rows
    ]
    row = rows[0]
    title = (
        f"Cost of a checkpoint, {row['device']}, {row['threads']} threads, batch {row['batch']}, "
        f"median of {row['n']} pairs"
    )
    columns = ("model", "MB", "s/checkpoint", "quartiles", "one every 30 s")
    return report.make_table(title, columns, cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: the cost of a save."""
    bars = {
        row["model"]: {"save": (row["seconds_per_save"], row["spread"]["q1"], row["spread"]["q3"])}
        for row in rows
    }
    return {"s/checkpoint": bars}


if __name__ == "__main__":
    run_command(main)
