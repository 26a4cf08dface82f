"""The network of the CIFAR speed records: patch whitening, identity initialisation, scaled logits.

Based on Page (2018), tysam-code/hlb-CIFAR10 and airbench (Jordan, https://arxiv.org/abs/2404.00498).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxcifar.errors import UserError
from flaxcifar.models import MODELS, Widths
from flaxcifar.models.layers import BatchNorm, Conv, gelu, max_pool, silu
from flaxcifar.rules import Share, above, at_least, between

ACTIVATIONS = {"gelu": gelu, "silu": silu}
_WHITENING_EPSILON = 5e-4  # added to the variances of patches of normalised images
_WHITENING_IMAGES = 5000

Activation = Callable[[jax.Array], jax.Array]


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Initialises a kernel [H, W, I, O] whose first I filters copy their input channel.

    The other filters are uniform within +-1 / sqrt(H * W * I), PyTorch's default. If H or W is
    even, the kernel has no centre, and all filters are uniform.
    """
    height, width, features_in, features = shape
    bound = (height * width * features_in) ** -0.5
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    if height % 2 == 0 or width % 2 == 0:
        return kernel
    count = min(features_in, features)
    identity = jnp.zeros(shape[:3] + (count,), dtype)
    identity = identity.at[height // 2, width // 2, jnp.arange(count), jnp.arange(count)].set(1)
    return kernel.at[..., :count].set(identity)


def unit_deviation(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Initialises a uniform kernel with mean about 0 and standard deviation 1."""
    kernel = jax.random.uniform(key, shape, dtype, -1, 1)
    return kernel / jnp.std(kernel)


def whitening_kernel(images: np.ndarray, size: int) -> np.ndarray:
    """Returns filters [size, size, C, 2 * size * size * C] that decorrelate patches of images.

    They are the eigenvectors of the patches' second moments, largest first, divided by the square
    roots of their eigenvalues, followed by their negatives.

    Args:
      images: normalised images, float32 [N, H, W, C].
      size: height and width of the patches.
    """
    patches = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * images.shape[-1])
    moments = patches.T.astype(np.float64) @ patches / len(patches)
    values, vectors = np.linalg.eigh(moments)
    filters = (vectors / np.sqrt(values + _WHITENING_EPSILON))[:, ::-1]
    filters = np.concatenate([filters, -filters], axis=1)
    return filters.reshape(size, size, images.shape[-1], -1).astype(np.float32)


class Stage(nnx.Module):
    """Convolutions, each with BatchNorm and activation. A pool follows the first convolution.

    The third and later convolutions are residual.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        depth: int,
        activation: Activation,
        norm_momentum: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        self.depth, self.activation = depth, activation
        for n in range(1, depth + 1):
            conv = Conv(
                features_in,
                features,
                (3, 3),
                use_bias=False,
                kernel_init=dirac,
                dtype=dtype,
                rngs=rngs,
            )
            # A scale would be largely redundant with the kernel of the next convolution.
            norm = BatchNorm(
                features,
                momentum=norm_momentum,
                epsilon=1e-12,
                use_scale=False,
                dtype=dtype,
                axis_name=axis_name,
                rngs=rngs,
            )
            setattr(self, f"conv{n}", conv)
            setattr(self, f"norm{n}", norm)
            features_in = features

    def __call__(self, x: jax.Array) -> jax.Array:
        for n in range(1, self.depth + 1):
            y = getattr(self, f"conv{n}")(x)
            y = max_pool(y) if n == 1 else y
            y = getattr(self, f"norm{n}")(y)
            x = self.activation(x + y if n > 2 else y)
        return x


class SpeedNet(nnx.Module):
    """A whitening convolution, stages, global max pooling and the head."""

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        widths: Sequence[int],
        depth: int,
        whitening_size: int,
        activation: Activation,
        logit_scale: float,
        norm_momentum: float,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ):
        *size, channels = image_shape
        least = 2 ** len(widths) + whitening_size - 1
        if min(size) < least:
            raise UserError(
                f"speednet with {len(widths)} stages needs images of at least {least} x {least}"
            )
        self.activation, self.logit_scale = activation, logit_scale
        self.depth = len(widths)
        features = 2 * channels * whitening_size**2
        self.whiten = Conv(
            channels,
            features,
            (whitening_size, whitening_size),
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
        )
        for n, width in enumerate(widths, 1):
            common = (depth, activation, norm_momentum, dtype, axis_name, rngs)
            setattr(self, f"stage{n}", Stage(features, width, *common))
            features = width
        self.head = nnx.Linear(
            features, num_classes, use_bias=False, kernel_init=unit_deviation, rngs=rngs
        )

    def fit_to(self, images: np.ndarray) -> None:
        """Sets the whitening kernel from normalised training images, float32 [N, H, W, C]."""
        kernel = whitening_kernel(images[:_WHITENING_IMAGES], self.whiten.kernel_size[0])
        self.whiten.kernel[...] = jnp.asarray(kernel)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits [B, classes] for float `images` [B, H, W, C]."""
        x = self.activation(self.whiten(images))
        for n in range(1, self.depth + 1):
            x = getattr(self, f"stage{n}")(x)
        x = jnp.max(x, axis=(1, 2)).astype(jnp.float32)
        return self.head(x) * self.logit_scale


@MODELS.register
def speednet(
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jnp.dtype,
    axis_name: str | None,
    rngs: nnx.Rngs,
    *,
    widths: Widths = (64, 256, 256),
    depth: Annotated[int, between(1, 256)] = 2,
    whitening_size: Annotated[int, at_least(1)] = 2,
    activation: Literal["gelu", "silu"] = "gelu",
    logit_scale: Annotated[float, above(0)] = 1 / 9,
    norm_momentum: Share = 0.6,
) -> nnx.Module:
    """A small network that learns in a few epochs.

    Args:
      widths: filters of each stage. Each stage halves the resolution.
      depth: convolutions per stage. The third and later ones are residual.
      whitening_size: height and width of the patches that the first layer decorrelates.
      activation: "gelu" or "silu".
      logit_scale: factor of the logits.
      norm_momentum: decay of BatchNorm's running averages per step.
    """
    return SpeedNet(
        num_classes,
        image_shape,
        widths,
        depth,
        whitening_size,
        ACTIVATIONS[activation],
        logit_scale,
        norm_momentum,
        dtype,
        axis_name,
        rngs,
    )
