"""The training loop."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar import parallel
from flaxcifar.checkpoint import Checkpoints
from flaxcifar.clock import Clock
from flaxcifar.config import to_json
from flaxcifar.console import TrainingProgress
from flaxcifar.data import resident
from flaxcifar.data.host import train_batches
from flaxcifar.errors import RunError, UserError
from flaxcifar.evaluate import Evaluate, make_evaluate
from flaxcifar.experiment import Experiment, build
from flaxcifar.ledger import Ledger, check_resumable
from flaxcifar.metrics import Metrics, compute
from flaxcifar.outcome import conclude, introduce, is_finished
from flaxcifar.step import Arrays, TrainState, create_state, train_steps
from flaxcifar.workdir import Logbook, prepare, read_json, write_json

TrainFn = Callable[[TrainState, Metrics, Arrays], tuple[TrainState, Metrics]]

# Steps that one dispatch runs on an accelerator. On a CPU the host's part is not worth hiding, and
# a convolution's gradient inside a scan can fall off XLA's fast path.
_STEPS_PER_DISPATCH = 16


def train_and_evaluate(config: Any, workdir: str | os.PathLike) -> TrainState:
    """Trains a checked config in `workdir`, or goes on where an earlier call was interrupted.

    Evaluates the test split once, at the end, and returns the final state. Raises UserError, before
    anything is written, where config, data, devices or workdir do not fit, and RunError where the
    loss is no longer finite.
    """
    workdir = Path(workdir)
    check_resumable(read_json(workdir / "config.json"), config, workdir)
    experiment = build(config)
    prepare(workdir)
    with Checkpoints(workdir) as checkpoints:
        state, ledger = resume_or_start(experiment, checkpoints)
        if is_finished(workdir, config):
            return state
        write_json(workdir / "config.json", to_json(config))
        introduce(experiment, ledger, workdir)
        recipe = experiment.recipe
        evaluate = make_evaluate(
            recipe.network, recipe.normalization, recipe.superclass_of, config.eval_batch_size
        )
        state = train(experiment, state, ledger, evaluate, checkpoints, workdir)
        conclude(experiment, state, ledger, evaluate, checkpoints, workdir)
    return state


def resume_or_start(experiment: Experiment, checkpoints: Checkpoints) -> tuple[TrainState, Ledger]:
    """Returns the newest checkpoint's state and ledger, or those before the first step."""
    recipe = experiment.recipe
    fresh = create_state(recipe, experiment.params, experiment.batch_stats)
    fresh = parallel.replicate(fresh)
    found = checkpoints.restore_latest(fresh)
    if found is None:
        return fresh, Ledger.start(experiment.config)
    state, record = found
    if record["fingerprint"] != experiment.dataset.fingerprint:
        raise UserError("the dataset is not the one this run began with; nothing was changed")
    return state, Ledger.from_record(record)


def train(
    experiment: Experiment,
    state: TrainState,
    ledger: Ledger,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    workdir: Path,
) -> TrainState:
    """Runs the epochs that are left; returns the state after the last."""
    dataset, validation_indices = experiment.dataset, experiment.validation_indices
    train_fn = make_train_fn(experiment)
    logbook = Logbook(workdir, ledger.history)
    progress = TrainingProgress(experiment.total_steps, experiment.total_epochs)
    with contextlib.closing(logbook), progress:
        for epoch in range(ledger.epoch, experiment.total_epochs):
            if ledger.stopping.should_stop:
                break
            clock = ledger.clock
            state, trained = train_epoch(experiment, train_fn, state, epoch, clock, progress)
            validated = {}
            if len(validation_indices):
                variables = (state.eval_params, state.batch_stats)
                validated = evaluate(*variables, dataset.train, validation_indices)
            row = make_row(experiment, state, epoch, trained, validated)
            best = ledger.update(row, validated.get(experiment.config.early_stopping.metric))
            scale = parallel.replicate(jnp.float32(ledger.learning_rate_scale))
            state = state.replace(learning_rate_scale=scale)
            record = ledger.record(experiment)
            logbook.write(row, {"images_per_second": clock.rate, "seconds": clock.total_seconds})
            progress.epoch(row, clock.rate, clock.total_seconds, best)
            if best:
                checkpoints.save_best(row["step"], state.eval_params, state.batch_stats, record)
            checkpoints.save_latest(row["step"], state, record)
        checkpoints.wait()
    return state


def make_train_fn(experiment: Experiment) -> TrainFn:
    """Returns the compiled step over all devices: (state, metrics, batches) -> (state, metrics).

    The state's memory is reused. Batches have the steps of one dispatch as their first axis.
    """
    split = {}
    if experiment.config.data.pipeline == "resident":
        split = parallel.replicate(resident.put(experiment.dataset.train))
    step = functools.partial(train_steps, experiment.recipe)
    compiled = parallel.pmap(step, replicated=3, batch_axis=1, donate=(0,))
    return lambda state, metrics, batches: compiled(state, metrics, split, batches)


def dispatches(experiment: Experiment, epoch: int) -> Iterator[Arrays]:
    """Yields the batches of an epoch as `train_fn` takes them: arrays [steps, B, ...].

    The resident pipeline's have only the indices.
    """
    indices = experiment.epoch_batches(epoch)
    on_cpu = jax.default_backend() == "cpu"
    size = experiment.config.steps_per_dispatch or (1 if on_cpu else _STEPS_PER_DISPATCH)
    starts = range(0, len(indices), size)
    if experiment.config.data.pipeline == "resident":
        yield from ({"index": indices[start : start + size]} for start in starts)
        return
    shard = (jax.process_index(), jax.process_count())
    batches = train_batches(experiment.dataset.train, indices, shard)
    for start in starts:
        several = [next(batches) for _ in indices[start : start + size]]
        yield jax.tree.map(lambda *arrays: np.stack(arrays), *several)


def train_epoch(
    experiment: Experiment,
    train_fn: TrainFn,
    state: TrainState,
    epoch: int,
    clock: Clock,
    progress: TrainingProgress,
) -> tuple[TrainState, dict[str, float]]:
    """Returns the state after an epoch and its training metrics.

    Raises RunError where the loss is not finite.
    """
    step, metrics, images = int(state.step), parallel.replicate(Metrics.zero()), 0
    clock.begin()
    for batches in dispatches(experiment, epoch):
        before, (state, metrics) = metrics, train_fn(state, metrics, batches)
        # The device has this dispatch in hand while the host waits for the one before.
        jax.block_until_ready(before)
        clock.lap(images)
        if images and progress.due():
            progress.update(step, epoch + 1, finite(before, experiment, step), clock.rate)
        images = batches["index"].size
        step += len(batches["index"])
    jax.block_until_ready(metrics)
    clock.lap(images)
    return state, finite(metrics, experiment, step)


def make_row(
    experiment: Experiment,
    state: TrainState,
    epoch: int,
    trained: dict[str, float],
    validated: dict[str, float],
) -> dict[str, Any]:
    """Returns an epoch's line of metrics.jsonl; the learning rate is that of its last step."""
    step, scale = int(state.step), float(state.learning_rate_scale)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": experiment.learning_rate(step - 1, scale),
        **{f"train_{name}": value for name, value in trained.items()},
        **{f"validation_{name}": value for name, value in validated.items()},
    }


def finite(metrics: Metrics, experiment: Experiment, step: int) -> dict[str, float]:
    """Returns the means; raises RunError where they are not finite."""
    values = compute(
        metrics,
        coarse=experiment.dataset.superclass_of is not None,
        penalty=bool(experiment.recipe.l2),
    )
    if not math.isfinite(values["loss"] + values.get("penalty", 0.0)):
        raise RunError(
            f"the training loss is {values['loss']} within the epoch up to step {step}; the last "
            "good checkpoint is kept; a smaller optimizer.learning_rate or gradient_clip may help"
        )
    return values
