"""A wide residual network with dropout after its stem (based on He et al., 2016)."""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from flaxcifar.models import MODELS, Widths
from flaxcifar.models.layers import BatchNorm, Conv, Dropout, Head
from flaxcifar.rules import FRACTION

BLOCKS = 2


class Stem(nnx.Module):
    """A convolution with BatchNorm, ReLU and dropout."""

    def __init__(
        self,
        features_in: int,
        features: int,
        rate: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(features_in, features, (3, 3), dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)
        self.dropout = Dropout(rate, salt=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.conv(x))))


class Block(nnx.Module):
    """Two convolutions and a shortcut that is always a convolution, even for equal shapes."""

    def __init__(
        self,
        features_in: int,
        features: int,
        stride: int,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        def norm():
            return BatchNorm(features, dtype=dtype, axis_name=axis_name, rngs=rngs)

        strides = stride, stride
        self.conv1 = Conv(features_in, features, (3, 3), strides, dtype=dtype, rngs=rngs)
        self.norm1 = norm()
        self.conv2 = Conv(features, features, (3, 3), dtype=dtype, rngs=rngs)
        self.norm2 = norm()
        self.shortcut = Conv(features_in, features, (1, 1), strides, dtype=dtype, rngs=rngs)
        self.shortcut_norm = norm()

    def __call__(self, x: jax.Array) -> jax.Array:
        branch = nnx.relu(self.norm1(self.conv1(x)))
        branch = self.norm2(self.conv2(branch))
        return nnx.relu(branch + self.shortcut_norm(self.shortcut(x)))


class Stage(nnx.Module):
    """Blocks of the same width. The first one has the stride."""

    def __init__(
        self,
        features_in: int,
        features: int,
        stride: int,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        for n in range(1, BLOCKS + 1):
            block = Block(features_in, features, stride, dtype, axis_name, rngs)
            setattr(self, f"block{n}", block)
            features_in, stride = features, 1

    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(1, BLOCKS + 1):
            x = getattr(self, f"block{n}")(x)
        return x


class ResNet(nnx.Module):
    """A stem, stages that each halve the resolution (but the first), and the head."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        widths: Sequence[int],
        dropout: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.depth = len(widths)
        self.stem = Stem(channels, widths[0], dropout, dtype, axis_name, rngs)
        features_in = widths[0]
        for n, features in enumerate(widths, 1):
            stride = 1 if n == 1 else 2
            stage = Stage(features_in, features, stride, dtype, axis_name, rngs)
            setattr(self, f"stage{n}", stage)
            features_in = features
        self.head = Head(features_in, num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits [B, classes] for float `images` [B, H, W, C]."""
        x = self.stem(images)
        for n in range(1, self.depth + 1):
            x = getattr(self, f"stage{n}")(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


@MODELS.register
def resnet(
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jnp.dtype,
    axis_name: str | None,
    rngs: nnx.Rngs,
    *,
    widths: Widths = (128, 256, 512, 1024),
    dropout: Annotated[float, FRACTION] = 0.5,
) -> nnx.Module:
    """The network of github.com/iamssr02/CIFAR-100-Classification-using-Custom-Model.

    Args:
      widths: filters of each stage of two blocks. The stem has as many as the first stage.
      dropout: rate after the stem.
    """
    return ResNet(num_classes, image_shape[-1], widths, dropout, dtype, axis_name, rngs)
