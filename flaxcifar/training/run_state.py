"""The state of a run between two dispatches, new or restored from a checkpoint."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flaxcifar.config.changes import config_changes
from flaxcifar.devices import parallel, processes
from flaxcifar.errors import UserError
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.metrics import Metrics
from flaxcifar.training.run_record import RunRecord
from flaxcifar.training.step import TrainState, create_state
from flaxcifar.workdir.checkpoints import Checkpoints, Record


@dataclasses.dataclass
class RunState:
    """Everything that a checkpoint of a run holds.

    Attributes:
      state: replicated over all devices.
      metrics: sums over the current epoch, replicated.
      record: the state on the host.
    """

    state: TrainState
    metrics: Metrics
    record: RunRecord

    @property
    def step(self) -> int:
        """Number of finished steps. Waits for the device."""
        return int(self.state.step)

    def apply_learning_rate_scale(self) -> None:
        """Copies the record's learning rate scale to the devices."""
        scale = parallel.replicate(jnp.float32(self.record.learning_rate_scale))
        self.state = self.state.replace(learning_rate_scale=scale)


def start(experiment: Experiment) -> dict[str, Any]:
    """Returns {"state", "metrics"} before the first step, not yet replicated."""
    state = create_state(
        experiment.recipe,
        experiment.hyperparams,
        experiment.params,
        experiment.batch_stats,
        experiment.proxy,
    )
    return {"state": state, "metrics": Metrics.zero(experiment.recipe.metrics)}


def resume_or_start(experiment: Experiment, checkpoints: Checkpoints, strict: bool) -> RunState:
    """Restores the newest checkpoint, or returns the state before the first step without one.

    The checkpoint may have other frozen parameters if `param_groups` has changed since.

    Raises:
      UserError: the checkpoint belongs to another model, optimizer or dataset, or the newest is
        damaged and `strict` is set.
    """

    def groups_changed(record: Record) -> bool:
        # Its own config: that of the workdir is newer until the first save under it.
        return "param_groups" in config_changes(record["config"], experiment.config)

    fresh = start(experiment)

    def newest() -> dict[str, Any] | None:
        found = checkpoints.restore_latest(fresh, strict=strict, migrate=groups_changed)
        if found is None:
            return None
        arrays, record = found
        if record["fingerprint"] != experiment.dataset.fingerprint:
            raise UserError(
                "the dataset differs from the one this run was trained on. Restore it or choose "
                "another --workdir. Nothing was changed."
            )
        return {"arrays": jax.tree.leaves(arrays), "record": record}

    found = processes.from_first(newest)
    if found is None:
        return RunState(**parallel.replicate(fresh), record=RunRecord.start(experiment.config))
    arrays = jax.tree.unflatten(jax.tree.structure(fresh), found["arrays"])
    return RunState(**parallel.replicate(arrays), record=RunRecord.from_json(found["record"]))
