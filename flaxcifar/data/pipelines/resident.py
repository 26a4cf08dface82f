"""The resident pipeline: the training split stays on the device, where batches are gathered."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from flaxcifar.data.dataset import Split
from flaxcifar.data.pipelines import Batch


class ResidentPipeline:
    """Sends only the positions of each batch's examples to the device."""

    needs_tensorflow = False

    def memory_limit(self, memory_gb: float) -> float:
        """Returns infinity: `put` reads the images once, in order."""
        return math.inf

    def put(self, split: Split) -> dict[str, jax.Array]:
        """Returns the split on the default device, as `gather` takes it.

        Returns:
          "image", uint8 [N, R, 128], rows of the images' pixels (narrower rows if 128 does not
          divide an image), and "label", int32 [N].
        """
        # These rows are whole tiles of a TPU's memory. It would pad the last two axes of [N, H, W,
        # C] to such tiles, and every dispatch would gather from a copy four times as large.
        pixels = math.prod(split.images.shape[1:])
        rows = np.asarray(split.images).reshape(len(split), -1, math.gcd(pixels, 128))
        return jax.device_put({"image": rows, "label": split.labels})

    def batches(self, split: Split, index_batches: np.ndarray) -> Iterator[Batch]:
        """Yields "index" int32 [B]."""
        return ({"index": index} for index in index_batches)

    def blank_batch(self, split: Split, batch_size: int) -> Batch:
        """Returns zeros in the shapes and dtypes of one of `batches`."""
        return {"index": np.broadcast_to(np.int32(0), batch_size)}


def gather(resident: dict[str, jax.Array], index: jax.Array) -> dict[str, jax.Array]:
    """Returns the batch that the host pipeline would send for `index`; for use inside jit.

    Args:
      resident: the arrays of `ResidentPipeline.put`, of square images.
      index: int32 [B] in 0..N-1.
    """
    # Indices are always in range. Clipping is the cheapest mode that is defined for all of them.
    batch = {key: jnp.take(array, index, axis=0, mode="clip") for key, array in resident.items()}
    size = math.isqrt(math.prod(batch["image"].shape[1:]) // 3)
    return batch | {"image": batch["image"].reshape(-1, size, size, 3), "index": index}
