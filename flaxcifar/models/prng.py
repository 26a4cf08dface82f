"""A PRNG for parameter initialisation that compiles quickly.

Initialising a VGG16 takes 10 seconds to compile with JAX's default PRNG, and 1 second with this
one. Like the default PRNG, and unlike hardware PRNGs, it yields the same numbers on every platform.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl
from jax.typing import ArrayLike

from flaxcifar.ops import hashing

# Separate the streams of the three uses of a key.
_SPLIT, _FOLD_IN, _BITS = 1, 2, 3


def _seed(seed: jax.Array) -> jax.Array:
    return hashing.combine(seed).reshape(1)


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    count = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return hashing.combine(_SPLIT, key, count).reshape(*shape, 1)


def _fold_in(key: jax.Array, data: ArrayLike) -> jax.Array:
    return hashing.combine(_FOLD_IN, key, data)


def _bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    if bit_width != 32:
        raise NotImplementedError(f"random bits must have width 32, got width {bit_width}")
    count = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return hashing.combine(_BITS, key, count).reshape(shape)


_IMPL = define_prng_impl(
    key_shape=(1,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="flaxcifar_hash",
    tag="hash",
)


def key(seed: int | jax.Array) -> jax.Array:
    """Returns a key for `jax.random` and `nnx.Rngs`, given an integer scalar."""
    return jax.random.key(seed, impl=_IMPL)
