"""Trains the runs of a sweep, one per device at a time, and writes their results."""

import itertools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from flaxcifar import console
from flaxcifar.atomic import write_text
from flaxcifar.config import to_json
from flaxcifar.devices import parallel
from flaxcifar.errors import Interrupted, RunError, UserError
from flaxcifar.search import results
from flaxcifar.search.plan import Run
from flaxcifar.training.experiment import build
from flaxcifar.training.signals import postponed
from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import write_json
from flaxcifar.workdir.run_folder import prepare

# Trains a config in a workdir, or resumes it; raises RunError if the run fails.
Train = Callable[[Any, Path], Any]


def run_all(runs: Sequence[Run], workdir: Path, train: Train) -> None:
    """Trains all runs and writes a summary, a plot and, if settings were swept, the best config.

    Every run resumes in a folder of its own, so the same call resumes an interrupted sweep. With
    several devices, each run trains on one of them, and all devices train at once.

    Args:
      runs: from `plan`.
      workdir: of the sweep.
      train: called with the config and the workdir of each run.

    Raises:
      UserError: a config does not fit the data or the devices; nothing was written.
      RunError: a run failed, for example because its loss is not finite. The others were trained.
    """
    devices = parallel.all_devices()
    if jax.process_count() > 1:
        raise UserError("--seeds and --sweep train in one process: start each run by itself")
    with parallel.using(devices[:1]):
        for _, members in itertools.groupby(runs, key=lambda run: run.setting):
            build(next(members).config)  # raises what is wrong before the first run
    prepare(workdir)
    if len(devices) == 1:
        failures = [_train(run, workdir, train) for run in runs]
    else:
        failures = _spread(runs, workdir, train, devices)
    _conclude(runs, workdir, failures)
    if any(failures):
        raise RunError(f"{sum(map(bool, failures))} of {len(runs)} runs failed")


def _train(run: Run, workdir: Path, train: Train) -> str | None:
    """Trains or resumes one run; returns the error message of a failed one."""
    with console.named(run.name):
        try:
            train(run.config, workdir / run.name)
        except Interrupted:
            raise
        except RunError as error:
            console.say(str(error))
            return str(error)
    return None


def _spread(
    runs: Sequence[Run], workdir: Path, train: Train, devices: Sequence[jax.Device]
) -> list[str | None]:
    """Trains the runs in one thread per device."""
    free: queue.SimpleQueue = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_device(run: Run) -> str | None:
        device = free.get()
        try:
            with parallel.using([device]):
                return _train(run, workdir, train)
        finally:
            free.put(device)

    # Signals reach this thread only, which passes them to the runs.
    with postponed(), ThreadPoolExecutor(len(devices)) as threads:
        try:
            return list(threads.map(on_a_device, runs))
        finally:
            threads.shutdown(cancel_futures=True)


def _conclude(runs: Sequence[Run], workdir: Path, failures: Sequence[str | None]) -> None:
    """Writes and prints the results."""
    rows = results.summarize(runs, workdir, failures)
    best = results.choose(rows, runs[0].config)
    swept = any(run.values for run in runs)
    write_json(workdir / names.SWEEP, {"settings": rows, "best": best and best["setting"]})
    console.show(results.table(rows, best if swept else None))
    results.plot(rows, workdir / names.SWEEP_PLOT)
    console.say(f"summary: {workdir / names.SWEEP}; plot: {workdir / names.SWEEP_PLOT}")
    if swept and best:
        config = next(run.config for run in runs if run.setting == best["setting"])
        write_text(workdir / names.SWEEP_BEST, as_file(config, best["setting"]))
        console.say(f"best config: {workdir / names.SWEEP_BEST}")


def as_file(config: Any, setting: str) -> str:
    """Returns the text of a config file, for --config, with the values of `config`."""
    return (
        f'"""The best setting of a sweep: {setting}."""\n\n'
        "from flaxcifar.config import from_json\n\n\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n"
    )
