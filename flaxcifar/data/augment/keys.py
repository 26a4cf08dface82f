"""Random numbers of augmentations, keyed per example.

A draw is a hash of (seed, place of the augmentation in the list, example, epoch, draw). It does not
depend on the batch, so any number of devices sees the same augmented images.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxcifar.ops import hashing


@dataclasses.dataclass(frozen=True)
class Random:
    """Random numbers of one augmentation, independent for each example of a batch.

    Attributes:
      example: uint32 [B], random bits of each example that are the same in every epoch.
      epoch: integer scalar, from 0.
    """

    example: jax.Array
    epoch: jax.Array

    @classmethod
    def keyed(cls, seed: ArrayLike, place: int, index: jax.Array, epoch: ArrayLike) -> "Random":
        """Returns the random numbers of the augmentation at `place` in the list.

        Args:
          index: int32 [B], positions of the examples in the training split.
        """
        return cls(hashing.combine(seed, place, index), jnp.asarray(epoch))

    def bits(self, draw: int) -> jax.Array:
        """Returns uint32 [B]. Different draws and epochs are independent."""
        return hashing.combine(self.example, self.epoch, draw)

    def uniform(self, draw: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        """Returns float32 [B] in [low, high)."""
        return low + (high - low) * ((self.bits(draw) >> 8).astype(jnp.float32) * 2.0**-24)

    def integer(self, draw: int, count: int) -> jax.Array:
        """Returns int32 [B] in [0, count). `count` must be far below 2**32."""
        return (self.bits(draw) % count).astype(jnp.int32)
