"""The order of the training examples: a pure function of seed and epoch."""

import numpy as np

from flaxcifar.errors import UserError


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns a permutation of 0..n-1, int32 [n].

    Sorts raw 64-bit numbers of Philox, keyed by (seed, epoch). NumPy guarantees that stream in all
    its versions, unlike `Generator.permutation`.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int32)


def epoch_indices(indices: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """Returns the shuffled batches of an epoch, int32 [steps, batch_size].

    Drops the last partial batch.

    Args:
      indices: integers [N], the training examples.

    Raises:
      UserError: there are fewer examples than `batch_size`.
    """
    steps = len(indices) // batch_size
    if steps == 0:
        raise UserError(
            f"batch_size must be at most {len(indices)}, the number of training images, got "
            f"{batch_size}."
        )
    shuffled = np.asarray(indices, np.int32)[permutation(seed, epoch, len(indices))]
    return shuffled[: steps * batch_size].reshape(steps, batch_size)
