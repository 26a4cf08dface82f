"""What a checkpoint costs the training that goes on while it is written.

    python -m benchmarks.checkpoints --models vgg16

Stretches of steps with a save at their beginning take turns with stretches without one, each long
enough for the save to be on disk before it ends. A save's cost is what it stops the loop for and
what the steps beside the disk's part take longer: the median over the pairs of each, summed, which
one slow step in a stretch does not move.
"""

import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import Job
from benchmarks.processes import run_module
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

Row = dict[str, Any]
_INTERVAL = 30.0  # seconds between two saves


def main(argv: list[str]) -> None:
    """Measures every model, each in a process of its own."""
    if argv == ["--worker"]:
        print(json.dumps(work(**json.load(sys.stdin))))
        return
    flags = arguments.parser("checkpoints", __doc__, models="vgg16", frameworks="flaxcifar")
    options = arguments.parse(flags, argv)
    if options.frameworks != ["flaxcifar"]:
        raise UserError("--frameworks: the checkpoints are flaxcifar's")
    rows = []
    for model in options.models:
        job = arguments.job(options, model, "float32")
        request = {"job": dataclasses.asdict(job), "pairs": 5 * options.rounds}
        request["seconds"] = options.seconds
        row = make_row(
            job, run_module(job, request, "benchmarks.checkpoints", "--worker"), options.quick
        )
        records.append(options.output, [row])
        rows.append(row)
    report.publish(table(rows), panels(rows), options.output)


def work(job: dict[str, Any], pairs: int, seconds: float) -> Row:
    """Returns the seconds of the save and of each step of the stretches with a save and of those
    without, in pairs."""
    import importlib

    import jax
    import numpy as np

    from benchmarks.jobs import recipe
    from benchmarks.peers.flaxcifar_peer import PACKAGES
    from benchmarks.worker import use_threads
    from flaxcifar import ops
    from flaxcifar.devices import parallel
    from flaxcifar.training.experiment import build
    from flaxcifar.training.metrics import Metrics
    from flaxcifar.training.step import create_state, train_steps
    from flaxcifar.workdir.checkpoints import Checkpoints

    job = Job(**job)
    use_threads(job.threads)
    experiment = build(recipe(job))
    step = functools.partial(train_steps, experiment.recipe)
    compiled = parallel.pmap(step, replicated=5, batch_axis=1, donate=(1,))
    start = (experiment.params, experiment.batch_stats)
    state = create_state(experiment.recipe, experiment.hyperparams, *start)
    state, zero, hyperparams = parallel.replicate((state, Metrics.zero(), experiment.hyperparams))
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
                    raise RuntimeError(f"{steps} steps were too few for a save: raise --seconds")
        files = [path for path in Path(directory).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) / len(list(Path(directory).glob("*/*/*")))
    return {
        "with": taken[True],
        "without": taken[False],
        "steps": steps,
        "megabytes": size / 1e6,
        "device": jax.devices()[0].device_kind,
        "convolution": ops.resolve(),
        "versions": {name: importlib.import_module(name).__version__ for name in PACKAGES},
    }


def make_row(job: Job, found: Row, quick: bool) -> Row:
    """Returns the cost of a save, and its share where there is one every 30 seconds."""
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
    """Returns the rows as a table."""
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
        f"What a save costs, {row['device']}, {row['threads']} threads, batch {row['batch']}, "
        f"median of {row['n']} pairs"
    )
    columns = ("model", "MB", "seconds a save", "quartiles", "one every 30 s")
    return report.make_table(title, columns, cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the plot: the cost of a save."""
    bars = {
        row["model"]: {"save": (row["seconds_per_save"], row["spread"]["q1"], row["spread"]["q3"])}
        for row in rows
    }
    return {"seconds a save": bars}


if __name__ == "__main__":
    run_command(main)
