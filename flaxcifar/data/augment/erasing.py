"""Augmentations that hide a part of the image."""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.data.augment import AUGMENTATIONS
from flaxcifar.data.augment.checks import require_within
from flaxcifar.data.augment.keys import Random
from flaxcifar.rules import at_least, between


@AUGMENTATIONS.register
def cutout(
    images: jax.Array,
    random: Random,
    *,
    size: Annotated[int, at_least(1)],
    fill: Annotated[float, between(0, 255)] = 127.5,
) -> jax.Array:
    """Fills a square with grey: Cutout (https://arxiv.org/abs/1708.04552).

    Args:
      size: side of the square in pixels. Its centre may be any pixel of the image, so near the
        border part of the square falls outside.
      fill: value of the square's pixels, from 0 to 255.
    """
    height, width = images.shape[1:3]
    require_within("size", size, min(height, width))

    def covered(length: int, draw: int) -> jax.Array:
        """Returns bool [B, length]: the pixels along an axis that the square covers."""
        start = random.integer(draw, length)[:, None] - size // 2
        pixels = np.arange(length)[None, :]
        return (start <= pixels) & (pixels < start + size)

    square = covered(height, 0)[:, :, None] & covered(width, 1)[:, None, :]
    return jnp.where(square[..., None], fill, images)
