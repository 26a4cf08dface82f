"""Groups training steps into dispatches."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np

from flaxcifar.devices.parallel import all_devices, own_rows
from flaxcifar.models.network import Network
from flaxcifar.models.summary import model_summary
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.step import Arrays

# Operations of a dispatch whose length is chosen automatically. It takes some tenths of a second on
# any device: long enough to hide the host's work, short enough to react to a signal.
_CPU_FLOPS, _ACCELERATOR_FLOPS = 3e10, 5e13


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Training steps that the devices run in one call.

    Attributes:
      batches: arrays [max_steps, b, ...], what the pipeline sends of this process's rows of each
        batch. Only the first `steps` are trained on.
      image_size: as `Recipe.image_size`.
    """

    batches: Arrays
    steps: int
    image_size: int


def max_steps(experiment: Experiment) -> int:
    """Returns the maximum number of steps in a dispatch."""
    config, recipe = experiment.config, experiment.recipe
    on_cpu = all_devices()[0].platform == "cpu"
    if on_cpu and recipe.network.convolution == "xla":
        return 1  # in a loop XLA's gradients of convolutions are a hundred times slower
    steps = config.steps_per_dispatch
    if not steps:
        shape = experiment.dataset.train.images.shape[1:]
        flops = _training_flops(recipe.network, shape, recipe.frozen) * config.batch_size
        budget = _CPU_FLOPS if on_cpu else _ACCELERATOR_FLOPS * len(all_devices())
        steps = max(1, int(budget / flops))
    return min(steps, recipe.steps_per_epoch)


@functools.lru_cache(maxsize=8)
def _training_flops(network: Network, shape: tuple[int, ...], frozen: frozenset[str]) -> int:
    """Cached: every epoch needs it, and computing it traces the network."""
    return model_summary(network, shape, frozen)[1]["training_flops_per_image"]


def dispatches(experiment: Experiment, epoch: int, step: int) -> Iterator[Dispatch]:
    """Yields the rest of an epoch from `step`, counted from the start of the run."""
    done = step - epoch * experiment.recipe.steps_per_epoch
    own = own_rows(experiment.config.batch_size)
    indices = experiment.epoch_batches(epoch)[done:, own]
    if not len(indices):
        return
    most, end = max_steps(experiment), step + len(indices)
    batches = experiment.pipeline.batches(experiment.dataset.train, indices)
    while step < end:
        size, steps = experiment.image_size(step), 1
        while steps < min(most, end - step) and experiment.image_size(step + steps) == size:
            steps += 1
        rows = list(itertools.islice(batches, steps))
        rows += rows[-1:] * (most - steps)  # padding, never trained on
        yield Dispatch(jax.tree.map(lambda *arrays: np.stack(arrays), *rows), steps, size)
        step += steps
