"""Where a run is: what a checkpoint holds, whence it comes, and whether it is worth keeping."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxcifar.config.changes import config_changes
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import NonFiniteError, UserError
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.metrics import Metrics, compute
from flaxcifar.training.run_record import Ledger
from flaxcifar.training.step import TrainState, create_state
from flaxcifar.workdir import names
from flaxcifar.workdir.checkpoints import Checkpoints, Record
from flaxcifar.workdir.json_files import write_json


@dataclasses.dataclass
class Run:
    """Where a run is, between two dispatches: what a checkpoint holds.

    Attributes:
      metrics: of the epoch that is under way.
    """

    state: TrainState
    metrics: Metrics
    ledger: Ledger

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    def rescale(self) -> None:
        """Gives the state the scale of the learning rate that the ledger has come to."""
        scale = parallel.replicate(jnp.float32(self.ledger.learning_rate_scale))
        self.state = self.state.replace(learning_rate_scale=scale)


def start(experiment: Experiment) -> dict[str, Any]:
    """Returns {"state", "metrics"} before the first step, not yet on the devices."""
    state = create_state(
        experiment.recipe,
        experiment.hyperparams,
        experiment.params,
        experiment.batch_stats,
        experiment.proxy,
    )
    return {"state": state, "metrics": Metrics.zero()}


def resume_or_start(experiment: Experiment, checkpoints: Checkpoints, strict: bool) -> Run:
    """Returns the run as the newest checkpoint has it, or before the first step.

    Raises UserError where the checkpoint is of another model, optimizer or dataset, and where
    `strict` and the newest is damaged. It may be of another freeze plan.
    """

    def another_plan(record: Record) -> bool:
        # By the checkpoint's own config: the workdir's is newer until the first save under it.
        return "param_groups" in config_changes(record["config"], experiment.config)

    fresh = start(experiment)

    def newest() -> dict[str, Any] | None:
        found = checkpoints.restore_latest(fresh, strict=strict, migrate=another_plan)
        if found is None:
            return None
        arrays, record = found
        if record["fingerprint"] != experiment.dataset.fingerprint:
            raise UserError("the dataset is not the one this run began with; nothing was changed")
        return {"arrays": jax.tree.leaves(arrays), "record": record}

    found = processes.from_first(newest)
    if found is None:
        return Run(**parallel.replicate(fresh), ledger=Ledger.start(experiment.config))
    arrays = jax.tree.unflatten(jax.tree.structure(fresh), found["arrays"])
    return Run(**parallel.replicate(arrays), ledger=Ledger.from_record(found["record"]))


def finite(
    experiment: Experiment, metrics: Metrics, state: TrainState, workdir: Path
) -> dict[str, float]:
    """Returns the means; raises NonFiniteError, and writes nonfinite.json, where one is not finite.

    `state` is that of now, which knows the step at which it began.
    """
    values = compute(
        metrics,
        coarse=experiment.dataset.superclass_of is not None,
        penalty=experiment.recipe.penalizes,
    )
    if math.isfinite(values["loss"] + values.get("penalty", 0.0)):
        return values
    step = int(state.bad_step)
    epoch, position = divmod(step, experiment.recipe.steps_per_epoch)
    examples = experiment.epoch_batches(epoch)[position].tolist()
    path = workdir / names.NONFINITE
    write_json(path, {"step": step, "epoch": epoch + 1, "examples": examples})
    raise NonFiniteError(
        f"the loss of step {step}, in epoch {epoch + 1}, is not finite; its training examples are "
        f"{', '.join(map(str, examples[:4]))} and others, all in {path}; the last finite "
        "checkpoint is kept; a smaller optimizer.learning_rate or gradient_clip may help"
    )
