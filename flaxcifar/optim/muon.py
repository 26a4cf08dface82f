"""Muon: orthogonalized updates, whose singular values are all about one.

Jordan et al., 2024 (https://kellerjordan.github.io/posts/muon/), applied to convolution kernels.
"""

import functools
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

# Coefficients of the quintic whose iteration drives singular values towards one, tuned for speed.
_A, _B, _C = 3.4445, -4.7750, 2.0315
# Iterations per square of the matrix. Rounding can make its smallest eigenvalues negative; each
# iteration moves them away from zero 12-fold, and below about -1 they would explode.
_ITERATIONS_ON_A_SQUARE = 3


def orthogonalize_updates(
    rate: optax.Schedule,
    momentum: ArrayLike,
    nesterov: bool,
    ns_steps: int,
    ns_dtype: str,
    normalize: bool,
    weight_decay: ArrayLike,
) -> optax.GradientTransformation:
    """Returns Muon for kernels [H, W, I, O], each taken as the matrix [O, H * W * I].

    Args:
      rate: the learning rate by step.
      momentum, nesterov: of the gradients, before orthogonalization.
      ns_steps: Newton-Schulz iterations.
      ns_dtype: their dtype.
      normalize: scale each kernel to norm sqrt(O) before its update, so that a learning rate means
        the same for every kernel throughout training.
      weight_decay: each step subtracts this times the learning rate times the kernel.
    """
    parts = [
        optax.trace(momentum, nesterov),
        optax.stateless(lambda updates, _: _orthogonalize(updates, ns_steps, ns_dtype)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate),
    ]
    if normalize:
        parts.append(optax.stateless(_from_unit_norm))
    return optax.chain(*parts)


def newton_schulz(x: jax.Array, steps: int) -> jax.Array:
    """Returns matrices [..., m, n], m <= n, with the singular vectors of `x` and values near one.

    After 5 steps the values are between about 0.7 and 1.2, except those far below the largest.
    The iterations run in float32 on the small square x x^T, and only their product multiplies x:
    Gram Newton-Schulz (https://dao-lab.ai/blog/2026/gram-newton-schulz). Three steps take
    2 n / m + 9 products of m x m matrices instead of 6 n / m + 3.
    """
    norm = jnp.linalg.norm(x.astype(jnp.float32), axis=(-2, -1), keepdims=True)
    x = (x.astype(jnp.float32) / (norm + 1e-7)).astype(x.dtype)
    for start in range(0, steps, _ITERATIONS_ON_A_SQUARE):
        square = jnp.matmul(x, x.mT, preferred_element_type=jnp.float32)
        product = factor = _quintic(square)
        for _ in range(start + 1, min(start + _ITERATIONS_ON_A_SQUARE, steps)):
            square = _matmul(_matmul(factor, square), factor)
            factor = _quintic(square)
            product = _matmul(factor, product)
        x = product.astype(x.dtype) @ x
    return x


def _quintic(square: jax.Array) -> jax.Array:
    """Returns the factor by which an iteration multiplies x, given x x^T."""
    identity = jnp.broadcast_to(jnp.eye(square.shape[-1]), square.shape)
    return _A * identity + _B * square + _C * _matmul(square, square)


# By default GPUs and TPUs round the factors to fewer bits.
_matmul = functools.partial(jnp.matmul, precision="highest")


def _orthogonalize(updates: Any, steps: int, dtype: str) -> Any:
    """Orthogonalizes the leaves, stacking those of equal shape into one chain of products."""
    leaves, structure = jax.tree.flatten(updates)
    stacks: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, leaf in enumerate(leaves):
        stacks[leaf.shape].append(place)
    for (*inner, features), places in stacks.items():
        stack = jnp.stack([leaves[place] for place in places]).reshape(len(places), -1, features)
        # The smaller side first: the squares have its size.
        wide = features > stack.shape[1]
        matrices = (stack if wide else stack.mT).astype(dtype)
        result = newton_schulz(matrices, steps).astype(stack.dtype)
        result = (result if wide else result.mT).reshape(-1, *inner, features)
        for place, leaf in zip(places, result, strict=True):
            leaves[place] = leaf
    return jax.tree.unflatten(structure, leaves)


def _from_unit_norm(updates: Any, params: Any) -> Any:
    """Adds to each update the change that scales its kernel [..., O] to norm sqrt(O)."""

    def change(update: jax.Array, kernel: jax.Array) -> jax.Array:
        scale = kernel.shape[-1] ** 0.5 / jnp.linalg.norm(kernel.ravel())
        return update + (scale - 1) * kernel

    return jax.tree.map(change, updates, params)
