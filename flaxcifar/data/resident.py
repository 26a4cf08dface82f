"""The resident pipeline: the whole split lies on the device, batches are gathered there."""

import jax
import jax.numpy as jnp

from flaxcifar.data.dataset import Split


def put(split: Split, device: jax.Device | jax.sharding.Sharding | None = None) -> dict:
    """Returns {"image" uint8 [N, H, W, 3], "label" int32 [N]} on `device` (None: JAX's default)."""
    return jax.device_put({"image": split.images, "label": split.labels}, device)


def gather(resident: dict, index: jax.Array) -> dict:
    """Returns the batch at `index`, int32 [B]: "image", "label" and "index", as the host's.

    It is meant for use inside jit. Every index must lie in 0..N-1.
    """
    # Clipping is the cheapest of the defined ways to treat an index that never comes.
    batch = {key: jnp.take(array, index, axis=0, mode="clip") for key, array in resident.items()}
    return batch | {"index": index}
