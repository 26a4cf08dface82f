"""Which steps the host hands to the devices at once."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from flaxcifar.data.host import train_batches
from flaxcifar.devices.parallel import all_devices, own_rows
from flaxcifar.models.network import Network
from flaxcifar.models.summary import model_summary
from flaxcifar.training.experiment import Experiment
from flaxcifar.training.step import Arrays

# Operations of one dispatch, where the config leaves it open: it takes some tenths of a second on
# any device, which hides the host's part, and after which a signal is heard.
_CPU_FLOPS, _ACCELERATOR_FLOPS = 3e10, 5e13


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps that the devices run in one call.

    Attributes:
      batches: arrays [room, b, ...], of which the first `steps` count: this process's rows of each
        batch; those of the resident pipeline have only the indices.
      image_size: as `Recipe.image_size`.
    """

    batches: Arrays
    steps: int
    image_size: int


def room(experiment: Experiment) -> int:
    """Returns how many steps a dispatch has at most."""
    most = experiment.config.steps_per_dispatch
    on_cpu = all_devices()[0].platform == "cpu"
    if on_cpu and experiment.recipe.network.convolution == "xla":
        return 1  # in a loop XLA's gradients of convolutions are a hundred times slower
    if not most:
        shape = experiment.dataset.train.images.shape[1:]
        recipe = experiment.recipe
        flops = _training_flops(recipe.network, shape, recipe.frozen)
        step = flops * experiment.config.batch_size
        budget = _CPU_FLOPS if on_cpu else _ACCELERATOR_FLOPS * len(all_devices())
        most = max(1, int(budget / step))
    return min(most, experiment.recipe.steps_per_epoch)


@functools.lru_cache(maxsize=8)
def _training_flops(network: Network, shape: tuple[int, ...], frozen: frozenset[str]) -> int:
    """Cached, as every epoch asks for it, and the answer takes a trace of the network."""
    return model_summary(network, shape, frozen)[1]["training_flops_per_image"]


def dispatches(experiment: Experiment, epoch: int, step: int) -> Iterator[Dispatch]:
    """Yields what is left of an epoch from `step`, counted from the start of the run, on."""
    begun = step - epoch * experiment.recipe.steps_per_epoch
    own = own_rows(experiment.config.batch_size)
    indices = experiment.epoch_batches(epoch)[begun:, own]
    if not len(indices):
        return
    most = room(experiment)
    host = None
    if experiment.config.data.pipeline == "host":
        host = train_batches(experiment.dataset.train, indices)
    while len(indices):
        size = experiment.image_size(step)
        steps = 1
        while steps < min(most, len(indices)) and experiment.image_size(step + steps) == size:
            steps += 1
        if host is None:
            several = [{"index": row} for row in indices[:steps]]
        else:
            several = [next(host) for _ in range(steps)]
        # What fills the room up is never looked at.
        several += several[-1:] * (most - steps)
        yield Dispatch(jax.tree.map(lambda *rows: np.stack(rows), *several), steps, size)
        indices, step = indices[steps:], step + steps
