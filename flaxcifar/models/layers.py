"""The layers that networks are made of, with Keras' defaults.

Kernels start as Glorot uniform and biases at zero. Parameters and statistics are float32; `dtype`
is the precision of the computation and of what a layer returns.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from flaxcifar.errors import UserError
from flaxcifar.ops import convolution, hashing

_glorot_uniform = nnx.initializers.glorot_uniform()

Linear = partial(nnx.Linear, kernel_init=_glorot_uniform)


def make_head(features: int, num_classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns the last layer; it computes in its parameters' precision, and so are its logits."""
    return Linear(features, num_classes, dtype=None, rngs=rngs)


class Conv(nnx.Conv):
    """A convolution, with bias and SAME padding unless told otherwise.

    The bias is added, and its gradient summed, in float32 for every `dtype`: sums of a hundred
    thousand bfloat16 numbers would be both rough and, on a CPU, slower than the convolution.
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
        self.adds_bias, self.use_bias = use_bias, False  # not by nnx.Conv

    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x)
        if not self.adds_bias:
            return y
        return (_wide(y) + self.bias[...]).astype(y.dtype)


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015).

    In training the biased mean and variance are those of all devices' examples along `axis_name`,
    and the running averages keep `momentum` of themselves at every step; all of it in float32 under
    bfloat16.
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
            # Else NNX would round the running averages to the compute precision before using them.
            dtype=jnp.promote_types(dtype, jnp.float32),
            axis_name=axis_name,
            rngs=rngs,
        )
        self.output_dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x).astype(self.output_dtype)


class Dropout(nnx.Module):
    """Sets elements to zero with probability `rate` and scales the others by 1 / (1 - rate).

    Whether an element is dropped is a hash of its example's seed, its position within the example
    and `salt`, which tells the layers of a network apart. So an example's mask does not depend on
    where in the batch, or on which device, it stands.
    """

    def __init__(self, rate: float, *, salt: int):
        if not 0 <= rate < 1:
            raise UserError(f"a dropout rate is {rate}; it must be at least 0 and below 1")
        self.rate, self.salt = rate, salt
        self.deterministic = False

    def __call__(self, x: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """Returns `x` [B, ...] with elements dropped by uint32 `seeds` [B]; `x` in evaluation."""
        if self.deterministic or not self.rate:
            return x
        batch, *shape = x.shape
        element = jnp.arange(x.size // batch, dtype=jnp.uint32).reshape(1, *shape)
        example = hashing.combine(seeds, self.salt).reshape(batch, *[1] * len(shape))
        kept = hashing.combine(example, element) >= jnp.uint32(round(self.rate * 2**32))
        # In bfloat16 the scale itself would be off by up to 0.4 %.
        scaled = (x.astype(jnp.float32) * (1 / (1 - self.rate))).astype(x.dtype)
        return jnp.where(kept, scaled, 0)


def _elementwise(value: Callable, slope: Callable, *constants: float) -> Callable:
    """Returns an activation, `value(x, *constants)`, with the derivative `slope(x, *constants)`.

    Each direction is one loop over memory, and the backward pass keeps the input alone. It computes
    in float32 for bfloat16.
    """

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        return value(_wide(x), *constants).astype(x.dtype)

    def backward(x, dy):
        numbers = [_wide(x).dtype.type(constant) for constant in constants]
        # XLA would store whatever both directions compute, broadcast constants included.
        x, dy, *numbers = lax.optimization_barrier((x, dy, *numbers))
        return ((_wide(dy) * slope(_wide(x), *numbers)).astype(x.dtype),)

    activation.defvjp(lambda x: (activation(x), x), backward)
    return activation


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _normal(x, half, root):  # the standard normal distribution function
    return half + half * lax.erf(root * x)


def _logistic(x, one):
    return one / (one + jnp.exp(-x))


# Hendrycks & Gimpel (2016), https://arxiv.org/abs/1606.08415, define both.
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
    """Returns the maxima of 2 x 2 windows of `x` [B, H, W, C]; an odd last row or column is left.

    Where several elements of a window are largest they share the gradient evenly, which frameworks
    that give it to the first do not; behind a ReLU that makes no difference to parameters, whose
    gradients pass through zero or through sums over such elements. Both directions are plain loops:
    a reduction over windows has a select-and-scatter for its gradient, many times slower on a CPU.
    """
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"a map of {x.shape[1]} x {x.shape[2]} cannot be pooled")
    a, b, c, d = _corners(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _corners(x: jax.Array) -> list[jax.Array]:
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved, dy):
    # XLA would keep the corners of the forward pass.
    x, y, dy = lax.optimization_barrier((*saved, dy))
    batch, height, width, channels = y.shape
    winners = sum((corner == y).astype(jnp.float32) for corner in _corners(x))
    share = (dy / winners).astype(dy.dtype)
    windows = x[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels)
    wins = windows == y[:, :, None, :, None]
    dx = jnp.where(wins, share[:, :, None, :, None], 0)
    dx = dx.reshape(batch, 2 * height, 2 * width, channels)
    return (jnp.pad(dx, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
