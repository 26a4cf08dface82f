"""Networks of a config: construction and initialization."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxcifar import ops
from flaxcifar.config import plain, to_json
from flaxcifar.devices.parallel import AXIS
from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.adapt import adapt
from flaxcifar.models.network import Network
from flaxcifar.training.step import Arrays
from flaxcifar.workdir.checkpoints import read_best
from flaxcifar.workdir.tree_paths import describe_difference

# From a seed to parameters and batch statistics.
Init = Callable[[int], tuple[Arrays, Arrays]]


def make_network(config: Any, classes: int, key: str = "model") -> tuple[Network, Init]:
    """Builds the network of `config[key]`; returns it and its initialization.

    Raises:
      UserError: if the config's convolution backend is not available on this machine.
    """
    convolution = ops.resolve(config.ops.convolution)
    spec = json.dumps(to_json(config[key]), sort_keys=True)
    size = config.data.image_size
    return _make_network(spec, classes, (size, size, 3), config.precision, convolution)


@functools.lru_cache(maxsize=8)
def _make_network(
    spec: str, classes: int, shape: tuple[int, int, int], precision: str, convolution: str
) -> tuple[Network, Init]:
    """Cached, so that runs of one model compile its initialization once."""
    dtype = jnp.dtype(precision)

    def build(rngs):
        return adapt(MODELS.call(plain(json.loads(spec)), classes, shape, dtype, AXIS, rngs), AXIS)

    return Network.create(build, convolution)


def initialize(config: Any, params: Arrays, batch_stats: Arrays) -> tuple[Arrays, Arrays, str]:
    """Replaces initial values by those of the best checkpoint of the run `config.init_from`.

    The head keeps its initial values if its shape differs or `config.init_drop_head` is set.

    Args:
      params, batch_stats: initial values by path.

    Returns:
      Parameters, batch statistics, and a remark for the user.

    Raises:
      UserError: if another array is missing or has another shape.
    """
    best, _ = read_best(config.init_from)
    head = {path for path in params if path.startswith("head/")}
    saved = {**best["params"], **best["batch_stats"]}
    shapes = {path: str(list(value.shape)) for path, value in {**params, **batch_stats}.items()}
    saved_shapes = {path: str(list(value.shape)) for path, value in saved.items()}
    drop = config.init_drop_head or any(shapes[path] != saved_shapes.get(path) for path in head)
    ignored = {path for path in {*shapes, *saved_shapes} if drop and path.startswith("head/")}
    difference = describe_difference(
        {path: shape for path, shape in saved_shapes.items() if path not in ignored},
        {path: shape for path, shape in shapes.items() if path not in ignored},
    )
    if difference:
        raise UserError(f"init_from={config.init_from} is a run of another model ({difference})")
    taken = {path: jax.device_put(value) for path, value in saved.items() if path not in ignored}
    return (
        {path: taken.get(path, value) for path, value in params.items()},
        {path: taken.get(path, value) for path, value in batch_stats.items()},
        f"initialized from {config.init_from}, {'with a new head' if drop else 'head included'}",
    )


def check_size(network: Network, size: int) -> None:
    """Raises UserError if the network does not accept images of this height and width."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    apply = functools.partial(network.apply, seeds=None, train=False)
    try:
        jax.eval_shape(apply, *network.abstract(), images)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        words = str(error).partition("\n")[0]
        raise UserError(
            f"config.progressive_sizes: the model does not accept images of {size} x {size} "
            f"({words})"
        ) from error
