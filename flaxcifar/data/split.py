"""The validation split that is cut from the training split."""

import numpy as np

from flaxcifar.data.order import permutation
from flaxcifar.errors import UserError

# Where the order counts epochs, the split has a number of its own that no epoch reaches.
_STREAM = 2**63


def split_validation(
    labels: np.ndarray, percent: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (train, validation): sorted, disjoint int32 positions that cover `labels` [N].

    Every class gives `percent` of its examples up to rounding (largest remainders, so that the sum
    is right, too) and keeps at least one for training. The same seed gives the same split.
    """
    if not 0 <= percent < 100:
        raise UserError(f"validation_percent is {percent}, not at least 0 and below 100")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    taken = _shares(counts, percent / 100)
    shuffled = permutation(seed, _STREAM, len(labels))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = rank < np.repeat(taken, counts)
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])


def _shares(counts: np.ndarray, share: float) -> np.ndarray:
    """Returns int64 [classes]: about `share` of each count, summing to about share of the sum."""
    exact = counts * share
    taken = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(taken.sum())
    taken[np.argsort(taken - exact, kind="stable")[:missing]] += 1
    return np.minimum(taken, counts - 1)
