"""The order of the training examples: a pure function of seed and epoch."""

import numpy as np

from flaxcifar.errors import UserError


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns a permutation of 0..n-1, int32 [n].

    It sorts the raw 64-bit numbers of a Philox counter keyed by (seed, epoch): NumPy promises that
    stream for all its versions, which it does not for `Generator.permutation`.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int32)


def epoch_indices(indices: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """Returns the epoch's batches, int32 [steps, batch_size]: `indices` [N] shuffled and cut.

    The last partial batch is dropped. Raises UserError where there is no whole one.
    """
    steps = len(indices) // batch_size
    if steps == 0:
        raise UserError(
            f"batch_size {batch_size} is more than the {len(indices)} training images: make it less"
        )
    shuffled = np.asarray(indices, np.int32)[permutation(seed, epoch, len(indices))]
    return shuffled[: steps * batch_size].reshape(steps, batch_size)
