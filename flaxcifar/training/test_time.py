"""Test-time augmentation: the views of an image whose logits are averaged."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

# The weight of each view: the image, its mirror image, and both shifted along the diagonal, there
# and back. After airbench (https://arxiv.org/abs/2404.00498).
WEIGHTS = {
    "none": (1.0,),
    "mirror": (1 / 2,) * 2,
    "mirror_shift": (1 / 4,) * 2 + (1 / 8,) * 4,
}


@dataclasses.dataclass(frozen=True)
class Views:
    """A way of test-time augmentation: "none", "mirror" or "mirror_shift"."""

    name: str

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each view; they add up to one."""
        return WEIGHTS[self.name]

    def of(self, images: jax.Array) -> Iterator[jax.Array]:
        """Yields the views of `images` [B, H, W, C], each of that shape, the images first."""
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        shifted = (padded[:, :height, :width], padded[:, 2:, 2:])
        for view in (images, *shifted)[: (len(self.weights) + 1) // 2]:
            yield view
            if len(self.weights) > 1:
                yield view[:, :, ::-1]
