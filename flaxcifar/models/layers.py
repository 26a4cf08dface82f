"""Layers with Keras' defaults.

Kernels are initialised Glorot uniform, biases with zeros. Parameters and statistics are float32.
`dtype` is the dtype of the computation and of the output.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from flaxcifar.errors import UserError
from flaxcifar.ops import convolution, hashing

_glorot_uniform = nnx.initializers.glorot_uniform()

Linear = partial(nnx.Linear, kernel_init=_glorot_uniform)


class Head(nnx.Linear):
    """The output layer, which computes float32 logits [B, num_classes] from any dtype."""

    def __init__(self, features: int, num_classes: int, rngs: nnx.Rngs) -> None:
        super().__init__(features, num_classes, kernel_init=_glorot_uniform, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(_wide(x))


class Conv(nnx.Conv):
    """A convolution, by default with SAME padding and a bias.

    For every `dtype` the bias is added, and its gradient summed, in float32: sums of 100,000
    bfloat16 numbers would be inaccurate and, on a CPU, slower than the convolution itself.
    """

    def __init__(
        self,
        features_in: int,
        features: int,
        kernel_size: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        *,
        padding: str = "SAME",
        use_bias: bool = True,
        kernel_init: nnx.Initializer = _glorot_uniform,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            features_in,
            features,
            kernel_size,
            strides,
            padding=padding,
            use_bias=use_bias,
            dtype=dtype,
            kernel_init=kernel_init,
            conv_general_dilated=convolution,
            rngs=rngs,
        )
        self.use_bias = False  # nnx.Conv must not add it

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        y = super().__call__(x)
        if self.bias is None:
            return y
        return (_wide(y) + self.bias[...].reshape(1, 1, 1, -1)).astype(y.dtype)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015).

    In training, the biased mean and variance are computed over the examples of all devices along
    `axis_name`. The running averages decay by `momentum` per step. Everything is float32, also if
    `dtype` is bfloat16.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        use_scale: bool = True,
        dtype: jnp.dtype,
        axis_name: str | None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            features,
            momentum=momentum,
            epsilon=epsilon,
            use_scale=use_scale,
            # Otherwise NNX would round the running averages to bfloat16 before using them.
            dtype=np.promote_types(dtype, np.float32),
            axis_name=axis_name,
            rngs=rngs,
        )
        self.output_dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        return super().__call__(x).astype(self.output_dtype)


# The dropout seeds of the examples that the model is applied to, uint32 [B].
_seeds: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("seeds", default=None)


@contextlib.contextmanager
def dropout_seeds(seeds: jax.Array | None) -> Iterator[None]:
    """Context manager: models are applied with these dropout seeds, uint32 [B]."""
    token = _seeds.set(seeds)
    try:
        yield
    finally:
        _seeds.reset(token)


class Dropout(nnx.Module):
    """Sets elements to zero with probability `rate` and scales the others by 1 / (1 - rate).

    The mask is a hash of the example's seed, the element's position within the example, and `salt`,
    which differs between the layers of a network. So the mask of an example does not depend on its
    position in the batch or its device.
    """

    def __init__(self, rate: float, *, salt: int):
        if not 0 <= rate < 1:
            raise UserError(f"dropout rate must be at least 0 and below 1, got {rate}")
        self.rate, self.salt = rate, salt
        self.deterministic = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies dropout to `x` [B, ...] with the seeds of `dropout_seeds`.

        Returns `x` in evaluation.
        """
        if self.deterministic or not self.rate:
            return x
        seeds = _seeds.get()
        if seeds is None:
            raise ValueError("dropout in training needs seeds: call the model in dropout_seeds")
        batch, *shape = x.shape
        element = jnp.arange(x.size // batch, dtype=jnp.uint32).reshape(1, *shape)
        example = hashing.combine(seeds, self.salt).reshape(batch, *[1] * len(shape))
        kept = hashing.combine(example, element) >= jnp.uint32(round(self.rate * 2**32))
        # Rounding the scale to bfloat16 would change it by up to 0.4 %.
        scaled = (x.astype(jnp.float32) * (1 / (1 - self.rate))).astype(x.dtype)
        return jnp.where(kept, scaled, 0)


def _elementwise(value: Callable, slope: Callable, *constants: float) -> Callable:
    """Returns the activation `value(x, *constants)` with derivative `slope(x, *constants)`.

    Each direction is a single loop over memory, and only the input is saved for the backward pass.
    bfloat16 inputs are computed in float32.
    """

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        return value(_wide(x), *constants).astype(x.dtype)

    def backward(x, dy):
        numbers = [_wide(x).dtype.type(constant) for constant in constants]
        # Without the barrier XLA would store all values that both directions compute, including
        # broadcast constants.
        x, dy, *numbers = lax.optimization_barrier((x, dy, *numbers))
        return ((_wide(dy) * slope(_wide(x), *numbers)).astype(x.dtype),)

    activation.defvjp(lambda x: (activation(x), x), backward)
    return activation


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _normal(x, half, root):  # the standard normal distribution function
    return half + half * lax.erf(root * x)


def _logistic(x, one):
    return one / (one + jnp.exp(-x))


# Both are defined by Hendrycks & Gimpel (2016), https://arxiv.org/abs/1606.08415.
gelu = _elementwise(
    lambda x, *c: x * _normal(x, *c),
    lambda x, *c: _normal(x, *c) + x * jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5,
    0.5,
    0.5**0.5,
)
silu = _elementwise(
    lambda x, *c: x * _logistic(x, *c),
    lambda x, *c: _logistic(x, *c) + x * _logistic(x, *c) * _logistic(-x, *c),
    1.0,
)


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Max-pools 2 x 2 windows of `x` [B, H, W, C] with stride 2; ignores an odd last row or column.

    Tied maxima share the gradient evenly, while other frameworks give it to the first one. After a
    ReLU this makes no difference to parameters, whose gradients pass through zero or through sums
    over such elements. Both directions are plain loops. A windowed reduction would have a
    select-and-scatter as its gradient, which is many times slower on a CPU.
    """
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"max_pool needs maps of at least 2 x 2, got {x.shape[1]} x {x.shape[2]}")
    a, b, c, d = _corners(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _corners(x: jax.Array) -> list[jax.Array]:
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved, dy):
    # Without the barrier XLA would store the corners of the forward pass.
    x, y, dy = lax.optimization_barrier((*saved, dy))
    batch, height, width, channels = y.shape
    shared = _wide(dy)
    winners = sum((corner == y).astype(shared.dtype) for corner in _corners(x))
    share = (shared / winners).astype(dy.dtype)
    windows = x[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels)
    wins = windows == y[:, :, None, :, None]
    dx = jnp.where(wins, share[:, :, None, :, None], 0)
    dx = dx.reshape(batch, 2 * height, 2 * width, channels)
    return (jnp.pad(dx, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
