"""The training loop."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.config import to_json
from flaxcifar.console import TrainingProgress
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import Interrupted, NonFiniteError, OutOfMemoryError
from flaxcifar.training.dispatch import Dispatch, dispatches
from flaxcifar.training.evaluation import Evaluate, make_evaluate
from flaxcifar.training.experiment import Experiment, build
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.results import conclude, introduce, is_finished
from flaxcifar.training.run_state import Run, finite, resume_or_start
from flaxcifar.training.save_schedule import Timetable
from flaxcifar.training.signals import Interruption, postponed
from flaxcifar.training.step import Recipe, TrainState, train_steps
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints, space
from flaxcifar.workdir.json_files import read_json, write_json
from flaxcifar.workdir.metrics_log import MetricsLog, rewind_metrics
from flaxcifar.workdir.resume import check_resumable
from flaxcifar.workdir.run_folder import check_space, locked, prepare

TrainFn = Callable[[TrainState, Metrics, Dispatch], tuple[TrainState, Metrics]]

_MOST_ROLLBACKS = 3


def train_and_evaluate(
    config: Any,
    workdir: str | os.PathLike,
    *,
    strict: bool = False,
    allow_change: Collection[str] = (),
    on_end: Callable[[Path], None] | None = None,
) -> TrainState:
    """Trains a checked config in `workdir`, or goes on where an earlier call was interrupted.

    Evaluates the test split once, at the end, and returns the final state. In the main thread a
    SIGTERM or SIGINT saves the state after the step that is under way.

    Args:
      strict: refuse to go on from an older checkpoint where the newest is damaged.
      allow_change: config keys that may differ from those of the workdir's run.
      on_end: called with the workdir once results are written, and for a run that had finished
        before. In a run of several processes only the first one calls it.

    Raises:
      UserError: config, data, devices or workdir do not fit; nothing was written.
      OutOfMemoryError: a step does not fit into a device's memory.
      RunError: the loss is no longer finite, a checkpoint cannot be written, or a signal came.
    """
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(processes.own_workdir(Path(workdir)))
        with processes.together() as facts:
            saved = read_json(workdir / names.CONFIG)
            changes = check_resumable(saved, config, workdir, allow_change)
            experiment = build(config)
            facts["config"] = json.dumps(to_json(config))
            facts["dataset"] = experiment.dataset.fingerprint
            prepare(workdir)
            stack.enter_context(locked(workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir))
        interruption = stack.enter_context(postponed())
        checkpoints.clean()
        run = resume_or_start(experiment, checkpoints, strict)
        if processes.from_first(lambda: is_finished(workdir, config)):
            if on_end and processes.is_first():
                on_end(workdir)
            return run.state
        with processes.together():
            check_space(workdir, space(run.state))
        write_json(workdir / names.CONFIG, to_json(config))
        introduce(experiment, run.step, workdir)
        for change in changes.values():
            console.say(f"changed: {change}")
        recipe = experiment.recipe
        evaluate = make_evaluate(
            recipe.network,
            experiment.normalization,
            recipe.superclass_of,
            config.eval_batch_size,
            interruption.check,
        )
        stack.enter_context(_out_of_memory_reported(experiment))
        while True:
            try:
                train(experiment, run, evaluate, checkpoints, interruption, workdir)
                break
            except NonFiniteError as error:
                run = roll_back(experiment, run, checkpoints, error)
        conclude(experiment, run.state, run.ledger, evaluate, checkpoints, workdir)
        if on_end and processes.is_first():
            on_end(workdir)
    return run.state


@contextlib.contextmanager
def _out_of_memory_reported(experiment: Experiment) -> Iterator[None]:
    """Raises OutOfMemoryError in place of JAX's error if a device runs out of memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        kind, batch = parallel.all_devices()[0].device_kind, experiment.config.batch_size
        raise OutOfMemoryError(
            f"out of memory: a step of {batch} images does not fit on {kind}: reduce "
            "--config.batch_size (the last checkpoint is kept)",
            experiment,
        ) from error


def roll_back(
    experiment: Experiment, run: Run, checkpoints: Checkpoints, error: NonFiniteError
) -> Run:
    """Returns the run as the last checkpoint has it, with half the learning rate.

    Raises `error` unless the config asks for that, and after the third time.
    """
    rollbacks = run.ledger.rollbacks + 1
    if experiment.config.on_nonfinite != "rollback" or rollbacks > _MOST_ROLLBACKS:
        raise error
    checkpoints.wait()
    back = resume_or_start(experiment, checkpoints, strict=False)
    back.ledger.rollbacks = rollbacks
    back.rescale()
    console.say(f"{error}: back to step {back.step} with half the learning rate")
    return back


def train(
    experiment: Experiment,
    run: Run,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    interruption: Interruption,
    workdir: Path,
) -> None:
    """Trains the epochs that are left and saves the run on the way; `run` is changed in place."""
    dataset, validation_indices = experiment.dataset, experiment.validation_indices
    settings, ledger = experiment.config.checkpoint, run.ledger
    timetable = Timetable(settings.every_steps, settings.every_minutes, run.step)
    decision = processes.Decision()
    train_fn = make_train_fn(experiment)
    rewind_metrics(workdir, ledger.history)
    log = MetricsLog(workdir)
    progress = TrainingProgress(experiment.total_steps, experiment.total_epochs)

    def save() -> None:
        arrays = {"state": run.state, "metrics": run.metrics}
        checkpoints.save_latest(run.step, arrays, ledger.record(experiment))
        timetable.saved(run.step)
        decision.forget()

    def due(step: int) -> bool:
        interruption.check()
        return decision(timetable.due(step))

    with contextlib.closing(log), progress:
        try:
            for epoch in range(ledger.epoch, experiment.total_epochs):
                if ledger.stopping.should_stop:
                    break
                train_epoch(experiment, train_fn, run, epoch, progress, due, save, workdir)
                trained = finite(experiment, run.metrics, run.state, workdir)
                validated = {}
                if len(validation_indices):
                    variables = (run.state.eval_params, run.state.batch_stats)
                    validated = evaluate(*variables, dataset.train, validation_indices)["single"]
                row = make_row(experiment, run.state, epoch, trained, validated)
                best = ledger.update(row, validated.get(experiment.config.early_stopping.metric))
                run.metrics = parallel.replicate(Metrics.zero())
                run.rescale()
                if best:
                    variables = (run.state.eval_params, run.state.batch_stats)
                    checkpoints.save_best(row["step"], *variables, ledger.record(experiment))
                clock = ledger.clock
                log.write(row, {"images_per_second": clock.rate, "seconds": clock.total_seconds})
                progress.epoch(row, clock.rate, clock.total_seconds, best)
                last = epoch + 1 == experiment.total_epochs or ledger.stopping.should_stop
                if last or settings.every_epochs and (epoch + 1) % settings.every_epochs == 0:
                    save()
        except Interrupted:
            save()
            raise
        finally:
            checkpoints.wait()


def make_train_fn(experiment: Experiment) -> TrainFn:
    """Returns the compiled steps over all devices; the state's memory is reused."""
    split = parallel.replicate(experiment.pipeline.put(experiment.dataset.train))
    hyperparams = parallel.replicate(experiment.hyperparams)

    def train_fn(
        state: TrainState, metrics: Metrics, dispatch: Dispatch
    ) -> tuple[TrainState, Metrics]:
        recipe = dataclasses.replace(experiment.recipe, image_size=dispatch.image_size)
        compiled = _compiled(recipe, parallel.all_devices())
        count = np.int32(dispatch.steps)
        return compiled(hyperparams, state, metrics, split, count, dispatch.batches)

    return train_fn


@functools.lru_cache(maxsize=8)
def _compiled(recipe: Recipe, devices: tuple[jax.Device, ...]) -> Callable[..., Any]:
    """Cached, so that runs which differ in nothing but `Hyperparams` compile once."""
    step = functools.partial(train_steps, recipe)
    return parallel.pmap(step, replicated=5, batch_axis=1, donate=(1,), devices=devices)


def train_epoch(
    experiment: Experiment,
    train_fn: TrainFn,
    run: Run,
    epoch: int,
    progress: TrainingProgress,
    due: Callable[[int], bool],
    save: Callable[[], None],
    workdir: Path,
) -> None:
    """Trains what is left of an epoch; raises NonFiniteError where the loss is not finite.

    After every dispatch `due` is asked, with the steps so far, whether to `save`; it may raise to
    end the epoch there.
    """
    step, images, clock = run.step, 0, run.ledger.clock
    clock.begin()
    for dispatch in dispatches(experiment, epoch, step):
        before, (run.state, run.metrics) = run.metrics, train_fn(run.state, run.metrics, dispatch)
        # The device has this dispatch in hand while the host waits for the one before.
        jax.block_until_ready(before)
        clock.lap(images)
        if images and progress.due():
            values = finite(experiment, before, run.state, workdir)
            progress.update(step, epoch + 1, values, clock.rate)
        images = dispatch.steps * experiment.config.batch_size
        step += dispatch.steps
        if due(step):
            jax.block_until_ready(run.metrics)
            clock.lap(images)
            images = 0
            finite(experiment, run.metrics, run.state, workdir)
            save()
            clock.skip()
    jax.block_until_ready(run.metrics)
    clock.lap(images)


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
