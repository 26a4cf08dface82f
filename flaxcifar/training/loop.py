"""The training loop."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxcifar import console
from flaxcifar.config import to_json
from flaxcifar.console import TrainingProgress
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import Interrupted, NonFiniteError, OutOfMemoryError
from flaxcifar.training.banner import show_banner
from flaxcifar.training.callbacks import Callback, Run, ended, should_stop, started
from flaxcifar.training.dispatch import Dispatch, dispatches
from flaxcifar.training.evaluation import make_evaluate
from flaxcifar.training.experiment import Experiment, build
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.nonfinite import finite_means
from flaxcifar.training.results import conclude, is_finished
from flaxcifar.training.run_state import RunState, resume_or_start
from flaxcifar.training.save_schedule import SaveSchedule
from flaxcifar.training.session import Session, TrainFn
from flaxcifar.training.signals import Interruption, postponed
from flaxcifar.training.step import Recipe, TrainState, train_steps
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints, space
from flaxcifar.workdir.json_files import write_json
from flaxcifar.workdir.metrics_log import MetricsLog, rewind_metrics
from flaxcifar.workdir.resume import check_resumable
from flaxcifar.workdir.run_folder import check_space, locked, prepare, saved_config
from flaxcifar.workdir.summary_file import read_summary

_MAX_ROLLBACKS = 3

# From an epoch's row in metrics.jsonl to whether training stops there.
Stop = Callable[[Mapping[str, Any]], bool]


def train_and_evaluate(
    config: Any,
    workdir: str | os.PathLike,
    *,
    strict: bool = False,
    allow_change: Collection[str] = (),
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Trains a checked config in `workdir`, or resumes it, and evaluates the test split at the end.

    Args:
      strict: refuse to resume from an older checkpoint if the newest is damaged.
      allow_change: config keys that may differ from those of the run in `workdir`.
      callbacks: called by the first of several processes.

    Returns:
      The final state.

    Raises:
      UserError: the config, data, devices or workdir do not fit together. Nothing was written.
      OutOfMemoryError: a step does not fit into a device's memory.
      RunError: a loss is not finite, a checkpoint cannot be written, or a signal arrived.
    """
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(processes.own_workdir(Path(workdir)))
        with processes.together() as facts:
            saved = saved_config(workdir)
            changes = check_resumable(saved, config, workdir, allow_change)
            experiment = build(config)
            facts["config"] = json.dumps(to_json(config))
            facts["dataset"] = experiment.dataset.fingerprint
            prepare(workdir)
            stack.enter_context(locked(workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir))
        interruption = stack.enter_context(postponed())
        checkpoints.clean()
        finished = processes.from_first(lambda: is_finished(workdir, config, checkpoints))
        run = resume_or_start(experiment, checkpoints, strict)
        view = Run(workdir, to_json(config), experiment.total_epochs, experiment.total_steps)
        if not finished:
            _begin(experiment, run, workdir, changes.values())
            stack.enter_context(_out_of_memory_reported(experiment))
            session = make_session(experiment, workdir, checkpoints, interruption)
            started(callbacks, view, run.record.history)
            run = train_with_rollbacks(
                session, run, functools.partial(should_stop, callbacks, view)
            )
            conclude(session, run.record)
        ended(callbacks, view, read_summary(workdir) or {})
    return run.state


def _begin(experiment: Experiment, run: RunState, workdir: Path, changes: Iterable[str]) -> None:
    """Writes the config and prints the banner, if there is enough disk space."""
    with processes.together():
        check_space(workdir, space(run.state))
    write_json(workdir / names.CONFIG, to_json(experiment.config))
    show_banner(experiment, run.step, workdir)
    for change in changes:
        console.say(f"changed: {change}")


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


def make_session(
    experiment: Experiment, workdir: Path, checkpoints: Checkpoints, interruption: Interruption
) -> Session:
    """Compiles nothing yet, but puts the training split on the devices if it is resident."""
    config, recipe = experiment.config, experiment.recipe
    return Session(
        experiment=experiment,
        workdir=workdir,
        checkpoints=checkpoints,
        interruption=interruption,
        schedule=SaveSchedule(config.checkpoint.every_steps, config.checkpoint.every_minutes),
        train_fn=make_train_fn(experiment),
        evaluate=make_evaluate(
            recipe.network,
            experiment.normalization,
            recipe.superclass_of,
            config.eval_batch_size,
            recipe.metrics,
            interruption.check,
        ),
    )


def make_train_fn(experiment: Experiment) -> TrainFn:
    """Returns the compiled steps over all devices. They donate the memory of the state."""
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
    """Cached so that runs that differ only in `Hyperparams` compile once."""
    step = functools.partial(train_steps, recipe)
    return parallel.pmap(step, replicated=5, batch_axis=1, donate=(1,), devices=devices)


def train_with_rollbacks(session: Session, run: RunState, stop: Stop) -> RunState:
    """Trains to the end, or until `stop` says so, and returns the final state.

    After a loss that is not finite, restores the last checkpoint with half the learning rate if
    the config asks for that, up to three times in a run.
    """
    while True:
        try:
            train(session, run, stop)
            return run
        except NonFiniteError as error:
            rollbacks = run.record.rollbacks + 1
            if session.experiment.config.on_nonfinite != "rollback" or rollbacks > _MAX_ROLLBACKS:
                raise
            session.checkpoints.wait()
            run = resume_or_start(session.experiment, session.checkpoints, strict=False)
            run.record.rollbacks = rollbacks
            run.apply_learning_rate_scale()
            console.say(f"{error} Back at step {run.step} with half the learning rate.")


def train(session: Session, run: RunState, stop: Stop) -> None:
    """Trains the remaining epochs and saves the run on the way. Changes `run` in place.

    `stop` is called when an epoch is evaluated and saved.
    """
    experiment, record = session.experiment, run.record
    session.schedule.restart(run.step)
    rewind_metrics(session.workdir, record.history)
    log = MetricsLog(session.workdir)
    progress = TrainingProgress(experiment.total_steps, experiment.total_epochs)
    with contextlib.closing(log), progress:
        try:
            for epoch in range(record.epoch, experiment.total_epochs):
                if record.stopping.should_stop:
                    break
                train_epoch(session, run, epoch, progress)
                finish_epoch(session, run, epoch, progress, log)
                if stop(record.history[-1]):
                    session.save(run)
                    break
        except Interrupted:
            session.save(run)
            raise
        finally:
            session.checkpoints.wait()


def train_epoch(session: Session, run: RunState, epoch: int, progress: TrainingProgress) -> None:
    """Trains the rest of an epoch and saves the run whenever the schedule asks for it."""
    step, images, clock = run.step, 0, run.record.clock
    check = functools.partial(finite_means, session.experiment)
    clock.begin()
    for dispatch in dispatches(session.experiment, epoch, step):
        before = run.metrics
        run.state, run.metrics = session.train_fn(run.state, before, dispatch)
        # The device is busy with this dispatch while the host waits for the previous one.
        jax.block_until_ready(before)
        clock.lap(images)
        if images and progress.due():
            means = check(before, run.state, session.workdir)
            progress.update(step, epoch + 1, means, clock.rate)
        images = dispatch.steps * session.experiment.config.batch_size
        step += dispatch.steps
        session.interruption.check()
        if session.schedule.due(step):
            jax.block_until_ready(run.metrics)
            clock.lap(images)
            images = 0
            check(run.metrics, run.state, session.workdir)
            session.save(run)
            clock.skip()
    jax.block_until_ready(run.metrics)
    clock.lap(images)


def finish_epoch(
    session: Session, run: RunState, epoch: int, progress: TrainingProgress, log: MetricsLog
) -> None:
    """Evaluates the validation split, then logs and saves the epoch."""
    experiment, record, clock = session.experiment, run.record, run.record.clock
    row = measure_epoch(session, run, epoch)
    best = record.add_epoch(row, experiment.config)
    run.metrics = parallel.replicate(Metrics.zero(experiment.recipe.metrics))
    run.apply_learning_rate_scale()
    if best:
        session.save_best(run)
    log.write(row, {"images_per_second": clock.rate, "seconds": clock.total_seconds})
    progress.epoch(row, clock.rate, clock.total_seconds, record.improved)
    every = experiment.config.checkpoint.every_epochs
    last = record.epoch == experiment.total_epochs or record.stopping.should_stop
    if last or every and record.epoch % every == 0:
        session.save(run)


def measure_epoch(session: Session, run: RunState, epoch: int) -> dict[str, Any]:
    """Returns the row of an epoch in metrics.jsonl, with the learning rate of its last step."""
    experiment, state = session.experiment, run.state
    trained = finite_means(experiment, run.metrics, state, session.workdir)
    validated = {}
    if len(experiment.validation_indices):
        evaluation = session.evaluate(
            state.eval_params,
            state.batch_stats,
            experiment.dataset.train,
            experiment.validation_indices,
        )
        validated = evaluation.metrics["single"]
    step, scale = run.step, float(state.learning_rate_scale)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": experiment.learning_rate(step - 1, scale),
        **{f"train_{name}": value for name, value in trained.items()},
        **{f"validation_{name}": value for name, value in validated.items()},
    }
