"""Test-time augmentation: averages the logits of several views of an image."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# Weights of the views: the image, its mirror image, and both shifted by a pixel along the diagonal
# in either direction. Based on airbench (https://arxiv.org/abs/2404.00498).
WEIGHTS = {
    "none": (1.0,),
    "mirror": (1 / 2,) * 2,
    "mirror_shift": (1 / 4,) * 2 + (1 / 8,) * 4,
}


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of "none", "mirror" or "mirror_shift"."""

    name: str

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the views, which sum to one."""
        return WEIGHTS[self.name]

    def of(self, images: jax.Array) -> Iterator[jax.Array]:
        """Yields the views of `images` [B, H, W, C] in the same shape, the images first."""
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        shifted = (padded[:, :height, :width], padded[:, 2:, 2:])
        for view in (images, *shifted)[: (len(self.weights) + 1) // 2]:
            yield view
            if len(self.weights) > 1:
                yield view[:, :, ::-1]
