"""Several runs of one config: many seeds, many settings, or both.

Each run has a workdir of its own and resumes as every run does, so the same command goes on after
an interruption. Runs that differ only in what compiled steps take as arguments share them. With
several devices each run has one of them, and as many run at once.
"""

import dataclasses
import itertools
import math
import queue
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import scipy.stats

from flaxcifar import console
from flaxcifar.config import to_json
from flaxcifar.devices import parallel
from flaxcifar.errors import Interrupted, RunError, UserError
from flaxcifar.training.experiment import build
from flaxcifar.training.loop import train_and_evaluate
from flaxcifar.training.signals import postponed
from flaxcifar.workdir import names
from flaxcifar.workdir.files import prepare, read_json, write_json, write_text


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep: the values of the keys that are swept, by dotted key, and its seed."""

    values: Mapping[str, str]
    config: Any

    @property
    def setting(self) -> str:
        """What is common to the runs of different seeds."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def name(self) -> str:
        """The name of its workdir."""
        parts = [*self.values.items(), ("seed", self.config.seed)]
        return re.sub(r"[^\w.=,+-]", "_", ",".join(f"{key}={value}" for key, value in parts))


def parse_axis(text: str) -> tuple[str, list[str]]:
    """Returns the key and the values of `key=a,b`; commas inside brackets separate no values."""
    key, equals, values = text.partition("=")
    found = re.split(r",(?![^(\[{]*[)\]}])", values)
    if not equals or not all(key.split(".")) or not all(value.strip() for value in found):
        raise UserError(f"--sweep {text!r}: expected some.key=value,value")
    return key, [value.strip() for value in found]


def plan(load: Any, axes: Sequence[tuple[str, list[str]]], seeds: int) -> list[Run]:
    """Returns all runs: the product of the axes, each with `seeds` seeds from the config's on.

    `load` returns the checked config of a list of overrides; a mistake in any of them is raised
    before the first run.
    """
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys) or ("seed" in keys and seeds > 1):
        raise UserError("--sweep and --seeds: each key can be swept once")
    runs = []
    for values in itertools.product(*(values for _, values in axes)):
        overrides = [f"--config.{key}={value}" for key, value in zip(keys, values, strict=True)]
        first = load(overrides).seed
        for seed in range(first, first + seeds):
            config = load([*overrides, f"--config.seed={seed}"])
            runs.append(Run(dict(zip(keys, values, strict=True)), config))
    if axes and not runs[0].config.data.validation_percent:
        raise UserError(
            "--sweep chooses the best setting by the validation split, and "
            "config.data.validation_percent is 0: hold some of the training split out"
        )
    return runs


def run_all(runs: Sequence[Run], workdir: Path, **options: Any) -> None:
    """Trains all runs in `workdir` and leaves sweep.json, a plot and, of settings, the best config.

    A run whose loss is not finite is a result, too. Raises RunError where a run failed otherwise,
    after the others have ended.
    """
    devices = parallel.all_devices()
    if jax.process_count() > 1:
        raise UserError("--seeds and --sweep train in one process: start each run by itself")
    with parallel.using(devices[:1]):
        for _, members in itertools.groupby(runs, key=lambda run: run.setting):
            build(next(members).config)  # what is wrong shows before the first run
    prepare(workdir)
    if len(devices) == 1:
        failures = [_train(run, workdir, options) for run in runs]
    else:
        failures = _spread(runs, workdir, options, devices)
    rows = summarize(runs, workdir, failures)
    best = choose(rows, runs[0].config)
    swept = any(run.values for run in runs)
    write_json(workdir / names.SWEEP, {"settings": rows, "best": best and best["setting"]})
    console.show(console.sweep_table(rows, best if swept else None))
    plot(rows, workdir / names.SWEEP_PLOT)
    console.say(f"summary: {workdir / names.SWEEP}; plot: {workdir / names.SWEEP_PLOT}")
    if swept and best:
        config = next(run.config for run in runs if run.setting == best["setting"])
        write_text(workdir / names.SWEEP_BEST, as_file(config, best["setting"]))
        console.say(f"best config: {workdir / names.SWEEP_BEST}")
    if any(failures):
        raise RunError(f"{sum(map(bool, failures))} of {len(runs)} runs failed")


def _train(run: Run, workdir: Path, options: Mapping[str, Any]) -> str | None:
    """Trains one run, or goes on with it; returns what went wrong."""
    with console.named(run.name):
        try:
            train_and_evaluate(run.config, workdir / run.name, **options)
        except Interrupted:
            raise
        except RunError as error:
            console.say(str(error))
            return str(error)
    return None


def _spread(
    runs: Sequence[Run], workdir: Path, options: Mapping[str, Any], devices: Sequence[Any]
) -> list[str | None]:
    """Trains the runs, as many at once as there are devices, each on one of them."""
    free: queue.SimpleQueue = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def train(run: Run) -> str | None:
        device = free.get()
        try:
            with parallel.using([device]):
                return _train(run, workdir, options)
        finally:
            free.put(device)

    # Signals reach this thread only; it hands them on to the runs.
    with postponed(), ThreadPoolExecutor(len(devices)) as threads:
        try:
            return list(threads.map(train, runs))
        finally:
            threads.shutdown(cancel_futures=True)


def summarize(
    runs: Sequence[Run], workdir: Path, failures: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Returns a row for each setting: what its seeds gave, and their mean and spread."""
    rows = []
    for setting, members in itertools.groupby(
        zip(runs, failures, strict=True), key=lambda member: member[0].setting
    ):
        members = list(members)
        found = [read_json(workdir / run.name / names.SUMMARY) for run, bad in members if not bad]
        row: dict[str, Any] = {
            "setting": setting,
            "values": dict(members[0][0].values),
            "seeds": [run.config.seed for run, _ in members],
            "failed": [bad for _, bad in members if bad],
            "seconds": [summary["timing"]["total_seconds"] for summary in found],
        }
        for split in ("validation", "test", "test_augmented"):
            for metric in ("accuracy", "top5_accuracy", "loss"):
                values = [summary[split][metric] for summary in found if summary[split]]
                if values:
                    row[f"{split}_{metric}"] = spread(values)
        rows.append(row)
    return rows


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Returns the values, their mean, and with two or more their deviation and confidence interval.

    The interval holds the mean of all seeds with 95 %, by Student's distribution.
    """
    values = list(values)
    n, mean = len(values), statistics.fmean(values)
    result = {"values": values, "n": n, "mean": mean, "deviation": None, "interval": None}
    if n > 1:
        deviation = statistics.stdev(values)
        reach = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        result |= {"deviation": deviation, "interval": [mean - reach, mean + reach]}
    return result


def choose(rows: Sequence[dict[str, Any]], config: Any) -> dict[str, Any] | None:
    """Returns the row that is best on the validation split, of those of which no seed failed."""
    stopping = config.early_stopping
    key = f"validation_{stopping.metric}"
    whole = [row for row in rows if not row["failed"] and key in row]
    better = max if stopping.mode == "max" else min
    return better(whole, key=lambda row: row[key]["mean"], default=None)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws every seed's accuracy, a row a setting, with the mean and its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for split, marker in {"validation": "o", "test": "s", "test_augmented": "^"}.items():
        key = f"{split}_accuracy"
        color, label = None, split.replace("_", " ")
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


def as_file(config: Any, setting: str) -> str:
    """Returns a config file, for --config, of a config."""
    return (
        f'"""The best setting of a sweep: {setting}."""\n\n'
        "from flaxcifar.config import from_json\n\n\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n"
    )
