"""Integer hashing: random bits cheap enough to draw for every element of every activation."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def combine(*words: ArrayLike) -> jax.Array:
    """Returns a uint32 hash of integers or integer arrays, broadcast against one another."""
    state = jnp.uint32(0)
    for word in words:
        state = _mix(state * jnp.uint32(0x9E3779B1) + jnp.asarray(word).astype(jnp.uint32) + 1)
    return state


def _mix(x: jax.Array) -> jax.Array:
    """Returns uint32 `x` with each bit depending on all input bits (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
