"""Makes models of plain Flax NNX layers trainable on any number of devices."""

import itertools
from typing import Any

from flax import nnx
from jax import lax

from flaxcifar import ops
from flaxcifar.errors import UserError
from flaxcifar.models.layers import Dropout


def adapt(model: nnx.Module, axis_name: str | None) -> nnx.Module:
    """Adapts the plain NNX layers of `model` in place, and returns it.

    `nnx.Conv` uses the convolution backend in use, `nnx.BatchNorm` averages over the devices along
    `axis_name`, and `nnx.Dropout` drops the same elements of an example wherever it is computed.
    Layers of `flaxcifar.models.layers` stay as they are.

    Raises:
      UserError: dropout shares its mask between dimensions.
    """
    salts = itertools.count(1)
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, nnx.BatchNorm) and module.axis_name is None:
            module.axis_name = axis_name
        elif (
            isinstance(module, nnx.Conv) and module.conv_general_dilated is lax.conv_general_dilated
        ):
            module.conv_general_dilated = ops.convolution
        elif type(module) is nnx.Dropout:
            _seed_by_example(module, next(salts))
    return model


def _seed_by_example(module: Any, salt: int) -> None:
    """Turns an `nnx.Dropout` into a `layers.Dropout`, wherever in the model it is referred to."""
    if module.broadcast_dims:
        raise UserError("nnx.Dropout(broadcast_dims=...) is not supported: leave it out")
    rate, deterministic = module.rate, module.deterministic
    for name in list(vars(module)):
        if not name.startswith("_"):
            delattr(module, name)
    module.__class__ = Dropout
    Dropout.__init__(module, rate, salt=salt)
    module.deterministic = bool(deterministic)
