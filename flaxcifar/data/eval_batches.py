"""Batches for evaluation, in which every example counts exactly once."""

from collections.abc import Iterator

import numpy as np

from flaxcifar.data.dataset import Split


def eval_batches(
    split: Split, indices: np.ndarray, batch_size: int, own: slice = slice(None)
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples at `indices` [N] in that order, as batches of one shape.

    "image" uint8 [batch_size, H, W, 3], "label" int32 [batch_size], "mask" float32 [batch_size]:
    1 for an example, 0 for the zeros that fill the last batch up. `own` are the rows of each batch
    that are wanted.
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
