"""The resident pipeline: the whole split lies on the device, batches are gathered there."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.data.dataset import Split


def put(split: Split, device: jax.Device | jax.sharding.Sharding | None = None) -> dict:
    """Returns what `gather` takes, on `device` (None: JAX's default).

    That is "image", uint8 [N, R, 128] (or narrower rows, where an image has no whole number of
    them), of images S x S x 3, and "label", int32 [N].
    """
    # Whole tiles of a TPU's memory. Of images in four axes, whose last two it fills up to 128,
    # every dispatch would make a copy four times as large to gather from.
    pixels = math.prod(split.images.shape[1:])
    rows = np.asarray(split.images).reshape(len(split), -1, math.gcd(pixels, 128))
    return jax.device_put({"image": rows, "label": split.labels}, device)


def gather(resident: dict, index: jax.Array) -> dict:
    """Returns the batch at `index`, int32 [B]: "image", "label" and "index", as the host's.

    It is meant for use inside jit. Every index must lie in 0..N-1.
    """
    # Clipping is the cheapest of the defined ways to treat an index that never comes.
    batch = {key: jnp.take(array, index, axis=0, mode="clip") for key, array in resident.items()}
    size = math.isqrt(math.prod(batch["image"].shape[1:]) // 3)
    return batch | {"image": batch["image"].reshape(-1, size, size, 3), "index": index}
