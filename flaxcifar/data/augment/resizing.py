"""Resizing on the device, for progressive image sizes. Not an augmentation: the shape changes."""

import jax


def resize(images: jax.Array, size: int) -> jax.Array:
    """Returns float32 images [B, size, size, C], bilinear with antialiasing."""
    shape = (images.shape[0], size, size, images.shape[-1])
    return jax.image.resize(images, shape, "bilinear", antialias=True)
