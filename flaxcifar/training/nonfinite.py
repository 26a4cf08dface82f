"""Detects training losses that are not finite."""

import math
from pathlib import Path

from flaxcifar.errors import NonFiniteError
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.metrics import Metrics, compute
from flaxcifar.training.step import TrainState
from flaxcifar.workdir import names
from flaxcifar.workdir.json_files import write_json


def finite_means(
    experiment: Experiment, metrics: Metrics, state: TrainState, workdir: Path
) -> dict[str, float]:
    """Returns the means of training metrics.

    Raises:
      NonFiniteError: a loss is not finite. `state.bad_step` says of which step; its training
        examples are written to `nonfinite.json`.
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
        f"the loss of step {step} in epoch {epoch + 1} is not finite. Training examples: "
        f"{', '.join(map(str, examples[:4]))} and others, see {path}. The last finite checkpoint "
        "is kept. Try a smaller optimizer.learning_rate or set gradient_clip."
    )
