"""The resident pipeline: the whole split lies on the device, batches are gathered there."""

import jax
import jax.numpy as jnp

from flaxcifar.data.dataset import Split


def put(split: Split, device: jax.Device | jax.sharding.Sharding | None = None) -> dict:
    """Returns what `gather` takes, on `device` (None: JAX's default).

    That is "image", uint8 [N, H, W * 3], and "label", int32 [N].
    """
    # A TPU fills the last axis up to 128: three colours alone would take 40 times their memory,
    # or be copied into another layout by every dispatch.
    rows = split.images.reshape(*split.images.shape[:2], -1)
    return jax.device_put({"image": rows, "label": split.labels}, device)


def gather(resident: dict, index: jax.Array) -> dict:
    """Returns the batch at `index`, int32 [B]: "image", "label" and "index", as the host's.

    It is meant for use inside jit. Every index must lie in 0..N-1.
    """
    # Clipping is the cheapest of the defined ways to treat an index that never comes.
    batch = {key: jnp.take(array, index, axis=0, mode="clip") for key, array in resident.items()}
    images = batch["image"]
    return batch | {"image": images.reshape(*images.shape[:2], -1, 3), "index": index}
