"""VGG16 for images of 32 x 32 pixels (Simonyan & Zisserman, 2015; Liu & Deng, 2015)."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcifar.errors import UserError
from flaxcifar.models import MODELS, Width
from flaxcifar.models.layers import BatchNorm, Conv, Dropout, Head, Linear, max_pool
from flaxcifar.rules import Rule

# For each stage: width relative to the first stage, and the dropout rate after each convolution.
STAGES = (
    (1, (0.3, 0.0)),
    (2, (0.4, 0.0)),
    (4, (0.4, 0.4, 0.0)),
    (8, (0.4, 0.4, 0.0)),
    (8, (0.4, 0.4, 0.0)),
)


class Stage(nnx.Module):
    """Convolutions, each with ReLU, BatchNorm and dropout, then a pool with dropout."""

    def __init__(
        self,
        features_in: int,
        features: int,
        rates: Sequence[float],
        pool_rate: float,
        salt: int,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.depth = len(rates)
        for n, rate in enumerate(rates, 1):
            conv = Conv(features_in, features, (3, 3), dtype=dtype, rngs=rngs)
            norm = BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)
            setattr(self, f"conv{n}", conv)
            setattr(self, f"norm{n}", norm)
            setattr(self, f"dropout{n}", Dropout(rate, salt=salt + n))
            features_in = features
        self.pool_dropout = Dropout(pool_rate, salt=salt)

    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(1, self.depth + 1):
            x = getattr(self, f"norm{n}")(nnx.relu(getattr(self, f"conv{n}")(x)))
            x = getattr(self, f"dropout{n}")(x)
        return self.pool_dropout(max_pool(x))


class Dense(nnx.Module):
    """A dense layer with ReLU, BatchNorm and dropout."""

    def __init__(
        self,
        features_in: int,
        features: int,
        rate: float,
        salt: int,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.linear = Linear(features_in, features, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)
        self.dropout = Dropout(rate, salt=salt)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(nnx.relu(self.linear(x))))


class VGG(nnx.Module):
    """Five stages, a dense layer and the head."""

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        width: int,
        dropout: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        height, breadth, features_in = image_shape
        if min(height, breadth) < 32:
            raise UserError(f"vgg16 needs images of at least 32 x 32, got {height} x {breadth}")
        for n, (factor, rates) in enumerate(STAGES, 1):
            scaled = [rate * dropout for rate in rates]
            pool_rate = 0.5 * dropout if n == len(STAGES) else 0.0
            common = (10 * n, dtype, axis_name, rngs)
            stage = Stage(features_in, factor * width, scaled, pool_rate, *common)
            setattr(self, f"stage{n}", stage)
            features_in = factor * width
        flat = (height // 32) * (breadth // 32) * features_in
        common = (60, dtype, axis_name, rngs)
        self.dense = Dense(flat, 8 * width, 0.5 * dropout, *common)
        self.head = Head(8 * width, num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits [B, classes] for float `images` [B, H, W, C]."""
        x = images
        for n in range(1, len(STAGES) + 1):
            x = getattr(self, f"stage{n}")(x)
        return self.head(self.dense(x.reshape(len(x), -1)))


@MODELS.register
def vgg16(
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jnp.dtype,
    axis_name: str | None,
    rngs: nnx.Rngs,
    *,
    width: Width = 64,
    dropout: Annotated[float, Rule(lambda v: 0 <= v < 2, "at least 0 and below 2")] = 1.0,
) -> nnx.Module:
    """The network of github.com/geifmany/cifar-vgg: convolution, ReLU, BatchNorm, dropout.

    Args:
      width: filters of the first stage. The others and the dense layer have 2 to 8 times as many.
      dropout: factor of the dropout rates, which are 0.3 to 0.5; 0 disables dropout.
    """
    return VGG(num_classes, image_shape, width, dropout, dtype, axis_name, rngs)
