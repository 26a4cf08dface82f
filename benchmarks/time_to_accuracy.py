"""Time to accuracy of whole runs, compared with recipes in Keras.

    python -m benchmarks.time_to_accuracy --configs speed94,crcv:total_epochs=5 --seeds 3 \\
        --keras vgg,crcv --keras-epochs 5 --dataset cifar10 --data-dir ~/tensorflow_datasets

A run of flaxcifar is `python -m flaxcifar.main`, including evaluation on the test split. Its
accuracy is that of the last epoch. There are three clocks: "cold" is a new process that decodes the
dataset and compiles, "warm" is a new process with both cached, and "steady" is the training steps.
Keras trains its recipe with `fit` on decoded images, augmented by preprocessing layers, and is
evaluated after every epoch.

With --keras-steps N only N steps of each epoch are run, and their time is scaled up. There is no
accuracy then. Compare with that of flaxcifar's run of the same recipe, such as
`vgg:total_epochs=5`.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import arguments, records, report
from benchmarks.jobs import ROOT, Job, missing
from benchmarks.processes import (
    WorkerError,
    child_environment,
    compilation_cache,
    last_words,
    run_module,
)
from benchmarks.worker import use_threads
from flaxcifar import config, console
from flaxcifar.cli.command import run_command
from flaxcifar.errors import UserError

Row = dict[str, Any]


def main(argv: list[str]) -> None:
    """Measures all configs with all seeds, then Keras' recipes."""
    options = parse(argv)
    rows: list[Row] = []
    for name in options.configs:
        rows += measure(name, options)
    for name in options.keras:
        rows.append(measure_keras(name, options))
    records.append(options.output, rows)
    report.publish(table(rows), panels(rows), options.output)
    console.show(ladder(rows, options.accuracies))


def parse(argv: list[str]) -> argparse.Namespace:
    """Returns the flags.

    Raises:
      UserError: a flag is invalid, or a config does not exist.
    """
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.add_argument
    words = arguments.words
    add("--configs", type=words, help="files in configs/, with changes: NAME:key=value:...")
    add("--seeds", type=int, default=3, help="per config; default 3")
    add("--warm", type=int, default=1, help="seeds that are also run warm; default 1")
    add("--keras", type=words, default=[], help="recipes for Keras: vgg, crcv")
    add("--keras-backend", default="tensorflow", choices=("tensorflow", "jax", "torch"))
    add("--keras-epochs", type=int, default=5)
    add("--keras-steps", type=int, default=0, help="steps to run of each epoch; 0 = all")
    add("--accuracies", type=words, default=["0.6", "0.7", "0.8", "0.85", "0.9"])
    add("--threads", type=int, default=records.available_cpus())
    add("--dataset", default="synthetic", help="as config.data.name")
    add("--data-dir", default="", help="as config.data.dir")
    add("--quick", action="store_true", help="check that everything works, with a few steps each")
    output = records.RESULTS / "time_to_accuracy.jsonl"
    add("--output", type=Path, default=output, help="JSON lines are appended; default %(default)s")
    options = flags.parse_args(argv)
    if options.configs is None:
        options.configs = [] if options.keras else ["speed94"]
    options.data_dir = options.data_dir and str(Path(options.data_dir).resolve())
    if options.quick:
        options.seeds, options.keras_epochs, options.keras_steps = 1, 1, 2
    for name in options.configs:
        path, changes = overrides(name, options)
        config.load(path, changes)  # raises UserError
    for name in options.keras:
        if name not in ("vgg", "crcv"):
            raise UserError(f"--keras: unknown recipe {name!r} (there are: vgg, crcv)")
        package = missing(f"keras-{options.keras_backend}")
        if package:
            raise UserError(f"--keras needs {package}: pip install -e '.[benchmarks]'")
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {options.seeds}")
    options.accuracies = [float(word) for word in options.accuracies]
    return options


def overrides(name: str, options: argparse.Namespace) -> tuple[Path, list[str]]:
    """Returns the file of `NAME:key=value:...` and the changes as command-line arguments."""
    stem, *changes = name.split(":")
    changes = [f"data.name={options.dataset}", f"data.dir={options.data_dir}", *changes]
    if options.quick:
        changes += ["batch_size=64", "eval_batch_size=1000", "total_steps=3"]
    return ROOT / "configs" / f"{stem}.py", [f"--config.{change}" for change in changes]


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    """Returns a config's row for each clock."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "steady": []}
    summaries = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as caches:
            summary, cold = run(name, seed, options, Path(caches), "cold")
            summaries.append(summary)
            seconds["cold"].append(cold)
            seconds["steady"].append(steady(summary))
            if seed < options.warm:
                seconds["warm"].append(run(name, seed, options, Path(caches), "warm")[1])
        console.say(
            f"{name}, seed {seed}: {console.percent(summary['test']['accuracy'])} "
            f"after {cold:.0f} s"
        )
    return [
        make_row(name, clock, values, summaries, options)
        for clock, values in seconds.items()
        if values
    ]


def steady(summary: Row) -> float:
    """Returns the seconds of the training steps at their steady rate."""
    batch = summary["config"]["batch_size"]
    return summary["steps"] * batch / summary["timing"]["images_per_second"]


def run(
    name: str, seed: int, options: argparse.Namespace, caches: Path, state: str
) -> tuple[Row, float]:
    """Returns the summary of a run in a new process, and its seconds from start to exit."""
    path, changes = overrides(name, options)
    workdir = caches / f"run-{state}"
    command = [sys.executable, "-m", "flaxcifar.main", "--config", str(path), *changes]
    command += [f"--config.seed={seed}", f"--config.data.cache_dir={caches / 'data'}"]
    command += ["--config.report=False", "--workdir", str(workdir)]
    environment = child_environment(Job("flaxcifar", threads=options.threads))
    environment |= compilation_cache(caches / "compiled")
    began = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        preexec_fn=lambda: use_threads(options.threads),
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise WorkerError(f"{name}: {last_words(done.returncode, done.stderr)}")
    return json.loads((workdir / "summary.json").read_text()), seconds


def make_row(
    name: str, clock: str, seconds: list[float], summaries: list[Row], options: argparse.Namespace
) -> Row:
    """Returns the row of a clock, with its median and the mean accuracy over all seeds."""
    first = summaries[0]

    def accuracy(split: str) -> Row | None:
        values = [100 * summary[split]["accuracy"] for summary in summaries if summary[split]]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return {"mean": statistics.fmean(values), "deviation": deviation, "values": values}

    described = {"device": first["devices"][0], "convolution": first["convolution"]}
    versions = {k: v for k, v in first["versions"].items() if k not in ("python", "flaxcifar")}
    job = Job(
        framework="flaxcifar",
        model=name,
        precision=first["config"]["precision"],
        batch=first["config"]["batch_size"],
        threads=options.threads,
        dataset=options.dataset,
    )
    return records.common("time_to_accuracy", job, described | {"versions": versions}) | {
        "clock": clock,
        "seconds": statistics.median(seconds),
        "spread": records.spread(seconds),
        "n": len(seconds),
        "seeds": len(summaries),
        "epochs": first["epochs"],
        "test_accuracy": accuracy("test"),
        "test_augmented_accuracy": accuracy("test_augmented"),
        "quick": options.quick,
    }


def measure_keras(name: str, options: argparse.Namespace) -> Row:
    """Measures a recipe in Keras; returns a row with seconds and test accuracy after each epoch."""
    framework = f"keras-{options.keras_backend}"
    job = Job(framework=framework, model=name, threads=options.threads, dataset=options.dataset)
    with tempfile.TemporaryDirectory() as directory:
        request = {
            "config": str(overrides(name, options)[0]),
            "changes": overrides(name, options)[1],
            "dataset_file": f"{directory}/dataset.npz",
            "epochs": options.keras_epochs,
            "steps": options.keras_steps,
            "threads": options.threads,
        }
        module = "benchmarks.peers.keras_recipe"
        run_module(job, request, module, "prepare")
        found = run_module(job, request | {"began": time.time()}, module, "train")
    job = dataclasses.replace(job, batch=found["batch"])
    last = found["epochs"][-1]
    accuracy = None
    if last["accuracy"] is not None:
        accuracy = {"mean": 100 * last["accuracy"], "deviation": None, "values": []}
    return records.common("time_to_accuracy", job, found | {"convolution": None}) | {
        "clock": "cold",
        "seconds": last["seconds"],
        "spread": records.spread([last["seconds"]]),
        "n": 1,
        "seeds": 1,
        "epochs": len(found["epochs"]),
        "by_epoch": found["epochs"],
        "steps_timed_an_epoch": options.keras_steps or None,
        "test_accuracy": accuracy,
        "test_augmented_accuracy": None,
        "quick": options.quick,
    }


def table(rows: list[Row]) -> Table:
    """Returns the rows as a rich table."""

    def words(found: Row | None) -> str:
        if found is None:
            return "-"
        spread = found["deviation"]
        return f"{found['mean']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")

    cells = [
        (
            row["model"],
            row["framework"],
            row["clock"] + (" (scaled)" if row.get("steps_timed_an_epoch") else ""),
            f"{row['seconds']:,.1f}",
            f"{row['spread']['min']:,.1f}-{row['spread']['max']:,.1f}",
            f"{row['n']}",
            f"{row['epochs']:.4g}",
            words(row["test_accuracy"]),
            words(row["test_augmented_accuracy"]),
        )
        for row in rows
    ]
    row = rows[0]
    title = f"Time to accuracy on {row['dataset']}, {row['device']}, {row['threads']} threads"
    columns = ("config", "framework", "clock", "seconds", "range", "n", "epochs", "test, %")
    return report.make_table(title, (*columns, "several views, %"), cells)


def ladder(rows: list[Row], accuracies: list[float]) -> Table:
    """Returns a table of the fastest config of each framework to reach each accuracy, cold."""
    cells = []
    for accuracy in accuracies:
        best: dict[str, tuple[float, str]] = {}
        for row in rows:
            for seconds, reached in _reached(row):
                if row["clock"] == "cold" and reached >= 100 * accuracy:
                    found = (seconds, row["model"])
                    best[row["framework"]] = min(best.get(row["framework"], found), found)
        for framework, (seconds, model) in sorted(best.items()):
            cells.append((f"{100 * accuracy:g} %", framework, model, f"{seconds:,.0f}"))
    columns = ("accuracy", "framework", "config", "seconds")
    return report.make_table(
        "First to an accuracy (single view, cold)", columns, cells or [("-",) * 4]
    )


def _reached(row: Row) -> list[tuple[float, float]]:
    """Returns (seconds, accuracy in percent) at the end, or after each epoch of Keras."""
    if "by_epoch" in row:
        epochs = row["by_epoch"]
        return [(e["seconds"], 100 * e["accuracy"]) for e in epochs if e["accuracy"] is not None]
    return [(row["seconds"], row["test_accuracy"]["mean"])]


def panels(rows: list[Row]) -> dict[str, report.Bars]:
    """Returns the bars to plot: seconds and accuracy of each config."""
    seconds: dict[str, dict] = {}
    accuracy: dict[str, dict] = {}
    for row in rows:
        changed = row["model"].replace(":", "\n")
        group = f"{changed}\n{row['framework']}, {row['dataset']}"
        low, high = row["spread"]["min"], row["spread"]["max"]
        seconds.setdefault(group, {})[row["clock"]] = (row["seconds"], low, high)
        for series, key in (("single view", "test_accuracy"), ("views", "test_augmented_accuracy")):
            if row[key]:
                mean, reach = row[key]["mean"], row[key]["deviation"] or 0.0
                accuracy.setdefault(group, {})[series] = (mean, mean - reach, mean + reach)
    return {"seconds": seconds, "test accuracy, %": accuracy}


if __name__ == "__main__":
    run_command(main)
