"""Time of a run from the start of its process to the first step, and to its end.

    python -m benchmarks.startup --models crcv --frameworks flaxcifar,keras-tensorflow,keras-jax

Each run is a new process that loads the dataset, trains for an epoch with the augmentation of the
recipe, evaluates the test split and writes the weights. Cold: only the operating system has cached
files. Warm: flaxcifar has cached the decoded dataset, and JAX the compiled programs. Keras gets
decoded arrays in both cases. With TensorFlow it has no cache.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import Job
from benchmarks.processes import WorkerError, compilation_cache, run_module, write_arrays
from benchmarks.turns import skip
from flaxcifar import console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

# Reported by each process, in seconds after its start.
MOMENTS = ("imported", "first_step", "finished")

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measures every model with every framework, cold and warm."""
    flags = arguments.parser(
        "startup", __doc__, models="crcv", frameworks="flaxcifar,keras-tensorflow,keras-jax"
    )
    flags.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    flags.add_argument("--steps", type=int, help="default: an epoch, with --quick 3")
    options = arguments.parse(flags, argv)
    steps = options.steps or (3 if options.quick else 0)
    for framework in options.frameworks:
        if Job(framework).family not in ("flaxcifar", "keras"):
            raise UserError(f"--frameworks: {framework} has no training loop of its own to measure")
    jobs = (arguments.job(options, model, options.precision) for model in options.models)
    rows = records.collect(options.output, (compare(job, steps, options) for job in jobs))
    report.publish(table(rows), panels(rows), options.output)


def compare(template: Job, steps: int, options: argparse.Namespace) -> list[Row]:
    """Measures all frameworks in turns; returns a row per framework, cold and warm."""
    console.say(f"{template.model}, {template.precision}, batch {template.batch}")
    found: dict[tuple[Job, str], list[Row]] = {}
    broken = set()
    with tempfile.TemporaryDirectory() as directory:
        template, _ = write_arrays(template, Path(directory))
        jobs = [dataclasses.replace(template, framework=name) for name in options.frameworks]
        for number in range(options.rounds):
            for job in jobs if number % 2 == 0 else reversed(jobs):
                if job in broken:
                    continue
                # The first run, in an empty directory, is cold and fills it. The next is warm.
                with tempfile.TemporaryDirectory() as caches:
                    try:
                        for state in ("cold", "warm"):
                            answer = run(job, steps, caches)
                            found.setdefault((job, state), []).append(answer)
                    except WorkerError as error:
                        broken.add(job)
                        skip(job, str(error))
    return [
        make_row(job, state, answers, options)
        for (job, state), answers in found.items()
        if job not in broken
    ]


def run(job: Job, steps: int, caches: str) -> Row:
    """Runs a job in a new process that may cache files in `caches`; returns its report."""
    environment = compilation_cache(f"{caches}/compiled")
    began = time.time()
    request = {"job": dataclasses.asdict(job), "steps": steps, "cache_dir": f"{caches}/data"}
    request["began"] = began
    module = f"benchmarks.peers.startup_{job.family}"
    answer = run_module(job, request, module, environment=environment)
    return answer | {"finished": time.time() - began}


def make_row(job: Job, state: str, answers: list[Row], options: argparse.Namespace) -> Row:
    """Returns a row with medians over the rounds."""
    seconds = {moment: [answer[moment] for answer in answers] for moment in MOMENTS}
    return (
        records.common("startup", job, answers[0])
        | {"state": state, "steps": answers[0]["steps"], "n": len(answers)}
        | {f"{moment}_seconds": statistics.median(seconds[moment]) for moment in MOMENTS}
        | {f"{moment}_spread": records.spread(seconds[moment]) for moment in MOMENTS}
        | {"quick": options.quick}
    )


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""
    cells = [
        (
            row["model"],
            row["framework"],
            row["state"],
            *(f"{row[f'{moment}_seconds']:.1f}" for moment in MOMENTS),
            f"{row['finished_spread']['min']:.1f}-{row['finished_spread']['max']:.1f}",
        )
        for row in rows
    ]
    row = rows[0]
    title = (
        f"Seconds from the start of a process, {row['steps']} steps of {row['batch']}, "
        f"{row['device']}, {row['threads']} threads, median of {row['n']}"
    )
    columns = ("model", "framework", "caches", "imports", "first step", "finished", "range")
    return report.make_table(title, columns, cells)


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: time to the first step and to the end."""
    result: dict[str, dict] = {"first_step": {}, "finished": {}}
    for row in rows:
        for moment, bars in result.items():
            low, high = (row[f"{moment}_spread"][end] for end in ("min", "max"))
            group = bars.setdefault(f"{row['model']}\n{row['framework']}", {})
            group[row["state"]] = (row[f"{moment}_seconds"], low, high)
    return {
        "seconds to the first step": result["first_step"],
        "seconds to the end": result["finished"],
    }


if __name__ == "__main__":
    run_command(main)
