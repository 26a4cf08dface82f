"""Plain sequential CNNs in two sizes, one for laptops and one for accelerators."""

from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcifar.errors import UserError
from flaxcifar.models import MODELS
from flaxcifar.models.layers import BatchNorm, Conv, Dropout, Head, max_pool
from flaxcifar.rules import FRACTION

# Filters of each stage's convolutions. All stages but the last end with a pool.
SIZES = {
    "slim": ((24,), (48,), (96, 96), (192,)),
    "heavy": ((64, 64), (128, 128), (256, 256), (512, 512)),
}


class Stage(nnx.Module):
    """Convolutions with BatchNorm and ReLU, then dropout.

    The pool precedes the last BatchNorm, which reduces its work to a quarter.
    """

    def __init__(
        self,
        features_in: int,
        widths: Sequence[int],
        pool: bool,
        rate: float,
        salt: int,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.depth, self.pool = len(widths), pool
        for n, features in enumerate(widths, 1):
            conv = Conv(features_in, features, (3, 3), dtype=dtype, rngs=rngs)
            norm = BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)
            setattr(self, f"conv{n}", conv)
            setattr(self, f"norm{n}", norm)
            features_in = features
        self.dropout = Dropout(rate, salt=salt)

    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(1, self.depth + 1):
            x = getattr(self, f"conv{n}")(x)
            if n == self.depth and self.pool:
                x = max_pool(x)
            x = nnx.relu(getattr(self, f"norm{n}")(x))
        return self.dropout(x)


class CNN(nnx.Module):
    """Stages, global average pooling and the head."""

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        stages: Sequence[Sequence[int]],
        dropout: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        height, breadth, features_in = image_shape
        self.depth = len(stages)
        least = 2 ** (self.depth - 1)
        if min(height, breadth) < least:
            raise UserError(f"crcv needs images of at least {least} x {least}")
        for n, widths in enumerate(stages, 1):
            rate = dropout if n > 1 else 0.0
            common = (n, dtype, axis_name, rngs)
            stage = Stage(features_in, widths, n < self.depth, rate, *common)
            setattr(self, f"stage{n}", stage)
            features_in = widths[-1]
        self.head = Head(features_in, num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits [B, classes] for float `images` [B, H, W, C]."""
        x = images
        for n in range(1, self.depth + 1):
            x = getattr(self, f"stage{n}")(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


@MODELS.register
def crcv(
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jnp.dtype,
    axis_name: str | None,
    rngs: nnx.Rngs,
    *,
    size: Literal["slim", "heavy"] = "slim",
    dropout: Annotated[float, FRACTION] = 0.1,
) -> nnx.Module:
    """A plain CNN of 3 x 3 convolutions.

    Args:
      size: "slim" for laptops, or "heavy".
      dropout: rate after every stage but the first.
    """
    return CNN(num_classes, image_shape, SIZES[size], dropout, dtype, axis_name, rngs)
