"""Batches for evaluation: padded and masked, so that every example counts exactly once."""

from collections.abc import Iterator

import numpy as np

from flaxcifar.data.dataset import Split


def eval_batches(
    split: Split, indices: np.ndarray, batch_size: int, own: slice = slice(None)
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples at `indices` in order, in batches of one shape.

    Args:
      indices: integers [N], positions in `split`.
      own: the rows of each batch to return, for one of several processes.

    Yields:
      "image" uint8 [batch_size, H, W, 3], "label" int32 [batch_size] and "mask" float32
      [batch_size], which is 0 for the padding of the last batch.
    """
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        image = np.zeros((batch_size, *split.images.shape[1:]), np.uint8)
        label = np.zeros(batch_size, np.int32)
        mask = np.zeros(batch_size, np.float32)
        image[: len(chosen)] = split.images[chosen]
        label[: len(chosen)] = split.labels[chosen]
        mask[: len(chosen)] = 1
        yield {"image": image[own], "label": label[own], "mask": mask[own]}
