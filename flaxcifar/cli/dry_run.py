"""Prints the plan of a run, with times from a few real steps; writes nothing."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.console import clock_time
from flaxcifar.data.dataset import Split
from flaxcifar.devices import parallel
from flaxcifar.devices.memory import peak_memory
from flaxcifar.models.summary import model_summary
from flaxcifar.training.banner import show_banner
from flaxcifar.training.dispatch import dispatches
from flaxcifar.training.evaluation import make_evaluate
from flaxcifar.training.experiment import Experiment, build
from flaxcifar.training.loop import make_train_fn
from flaxcifar.training.run_state import start
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import space
from flaxcifar.workdir.resume import check_resumable
from flaxcifar.workdir.run_folder import saved_config

_FILES = (names.CONFIG, names.METRICS, names.TIMING, names.TENSORBOARD, names.SUMMARY)
# Dispatches that tell a spread, and the spread from which an estimate is called rough.
_FEWEST, _STEADY = 4, 0.2
_PLOT_WIDTH, _PLOT_HEIGHT = 64, 8


def dry_run(config: Any, workdir: Path, *, seconds: float = 3.0) -> None:
    """Prints the data, model, schedule, time, memory and files of the run of a checked config.

    Trains and evaluates on a state that is then dropped.

    Args:
      config: the checked config.
      workdir: of the run; it need not exist.
      seconds: how long to time steps of each image size, and evaluation.

    Raises:
      UserError: as the run itself would.
    """
    saved = saved_config(workdir)
    check_resumable(saved, config, workdir)
    experiment = build(config)
    show_banner(experiment, 0, workdir)
    if saved is not None:
        console.say("the workdir holds this run: training would resume from its last checkpoint")
    console.say(f"data: {experiment.dataset.name}, fingerprint {experiment.dataset.fingerprint}")
    factors = [experiment.learning_rate(step, 1.0) for step in _sampled(experiment.total_steps)]
    console.say("learning rate over the run:")
    for line in plot(factors):
        console.say(line)

    state = parallel.replicate(start(experiment))
    needed = space(state["state"])
    with console.working("compiling and timing steps"):
        training, spread, state = time_training(experiment, state, seconds)
    with console.working("compiling and timing evaluation"):
        rate = evaluation_rate(experiment, state["state"], seconds)
    images = experiment.total_epochs * len(experiment.validation_indices)
    evaluating = (images + len(experiment.dataset.test)) / rate
    shape = experiment.dataset.train.images.shape[1:]
    totals = model_summary(experiment.recipe.network, shape, experiment.recipe.frozen)[1]
    flops = totals["training_flops_per_image"] * config.batch_size
    rows = [
        ("training", f"{clock_time(training)} for {experiment.total_steps:,} steps"),
        ("steadiness", spread_words(spread)),
        ("evaluation", f"{clock_time(evaluating)} for {images + len(experiment.dataset.test):,}"),
        ("total", f"about {clock_time(training + evaluating)}, without compilation"),
        ("one step", f"{flops / 1e9:,.1f} GFLOPs at the full image size"),
        ("memory", memory()),
        ("dataset", f"{_megabytes(_bytes(experiment))}, {config.data.pipeline}"),
        ("checkpoints", f"{_megabytes(needed)} at most in {workdir / names.CHECKPOINTS}"),
        ("disk", f"{_megabytes(_free(workdir))} free"),
        ("also written", ", ".join((*_FILES, *[names.REPORT] * config.report))),
    ]
    console.show(console.table("Plan", ("", ""), rows, justify="ll"))
    console.say("dry run: nothing was written")


def time_training(
    experiment: Experiment, state: dict[str, Any], limit: float
) -> tuple[float, float, dict[str, Any]]:
    """Times steps of each image size for about `limit` seconds. `state` is donated.

    Returns:
      The estimated seconds of all steps, without compilation, the spread of the measurements as
      `spread_of` returns it, and the trained state.
    """
    train_fn = make_train_fn(experiment)
    ends = [end for end, _ in experiment.sizes]
    seconds, relative = 0.0, []
    for first, end in zip([0, *ends], [*ends, experiment.total_steps], strict=True):
        if end > first:
            paces, state = _paces(experiment, train_fn, state, first, limit)
            seconds += (end - first) * float(np.mean(paces))
            relative += [pace / float(np.median(paces)) for pace in paces]
    return seconds, spread_of(relative), state


def _paces(
    experiment: Experiment, train_fn: Callable, state: dict[str, Any], step: int, limit: float
) -> tuple[list[float], dict[str, Any]]:
    """Returns the seconds per step of several dispatches, and the trained state.

    Leaves out the first dispatch, which compiles, unless it is the only one.
    """
    epoch = step // experiment.recipe.steps_per_epoch
    size = experiment.image_size(step)
    paces: list[float] = []
    end = math.inf
    began = time.perf_counter()
    for dispatch in dispatches(experiment, epoch, step):
        if dispatch.image_size != size or began > end:
            break
        new = train_fn(state["state"], state["metrics"], dispatch)
        state = dict(zip(("state", "metrics"), jax.block_until_ready(new), strict=True))
        now = time.perf_counter()
        end = min(end, now + limit)
        paces.append((now - began) / dispatch.steps)
        began = now
    return paces[1:] or paces, state


def spread_of(values: Sequence[float]) -> float:
    """Returns the range of the middle 80 % of the values over their median; NaN for few values."""
    if len(values) < _FEWEST:
        return math.nan
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return float((high - low) / middle)


def spread_words(spread: float) -> str:
    """Returns what the spread of the timed steps says about the estimate."""
    if math.isnan(spread):
        return f"unknown: fewer than {_FEWEST} dispatches were timed"
    words = f"times of steps vary by {100 * spread:.0f} %"
    return words if spread < _STEADY else f"{words}: the machine is busy, so this is a rough guess"


def evaluation_rate(experiment: Experiment, state: Any, limit: float) -> float:
    """Returns the images per second of evaluation, without compilation."""
    recipe, config = experiment.recipe, experiment.config
    evaluate = make_evaluate(
        recipe.network, experiment.normalization, recipe.superclass_of, config.eval_batch_size
    )
    test: Split = experiment.dataset.test
    some = np.arange(min(len(test), config.eval_batch_size))
    taken: list[float] = []
    while len(taken) < 2 or sum(taken[1:]) < limit and len(taken) < 20:
        began = time.perf_counter()
        evaluate(state.eval_params, state.batch_stats, test, some)
        taken.append(time.perf_counter() - began)
    return len(some) / float(np.median(taken[1:]))


def memory() -> str:
    """Returns the peak memory so far, in words."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in _devices()]
    if peaks and all(peaks):
        return f"{_megabytes(max(peaks))} at most on a device"
    peak = peak_memory()
    return f"{_megabytes(peak)} at most in this process" if peak else "not known on this system"


def plot(values: list[float]) -> list[str]:
    """Returns the lines of a bar plot of non-negative values, labelled with the largest."""
    most = max(values) or 1.0
    rows = []
    for row in range(_PLOT_HEIGHT, 0, -1):
        # In eighths of a line, the resolution of the block characters.
        filled = [math.ceil(8 * _PLOT_HEIGHT * value / most) - 8 * (row - 1) for value in values]
        rows.append("".join(" ▁▂▃▄▅▆▇█"[min(max(n, 0), 8)] for n in filled))
    labels = [f"{most:.3g}", *[""] * (_PLOT_HEIGHT - 2), "0"]
    return [f"{label:>8.8} {row}" for label, row in zip(labels, rows, strict=True)]


def _sampled(total_steps: int) -> list[int]:
    count = min(_PLOT_WIDTH, total_steps)
    return [round(n * (total_steps - 1) / max(count - 1, 1)) for n in range(count)]


def _devices() -> list[jax.Device]:
    return [device for device in parallel.all_devices() if device.platform != "cpu"]


def _bytes(experiment: Experiment) -> int:
    dataset = experiment.dataset
    return dataset.train.images.nbytes + dataset.test.images.nbytes


def _free(workdir: Path) -> int:
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
