"""Holds a validation split out of the training split."""

import numpy as np

from flaxcifar.data.order import permutation
from flaxcifar.errors import UserError

# Takes the place of the epoch in the key of the permutation; no epoch reaches it.
_STREAM = 2**63


def split_validation(
    labels: np.ndarray, percent: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples into training and validation, stratified by class.

    Args:
      labels: integers [N].
      percent: percentage of each class to hold out, at least 0 and below 100. It is rounded by
        largest remainders, so that the total is right, too; each class keeps at least one
        training example.
      seed: the same seed gives the same split.

    Returns:
      Training and validation positions: sorted, disjoint int32 that cover 0..N-1.
    """
    if not 0 <= percent < 100:
        raise UserError(f"validation_percent must be at least 0 and below 100, got {percent}.")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    taken = _shares(counts, percent / 100)
    shuffled = permutation(seed, _STREAM, len(labels))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = rank < np.repeat(taken, counts)
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])


def _shares(counts: np.ndarray, share: float) -> np.ndarray:
    """Returns int64 [classes]: `share` of each count, rounded by largest remainders."""
    exact = counts * share
    taken = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(taken.sum())
    taken[np.argsort(taken - exact, kind="stable")[:missing]] += 1
    return np.minimum(taken, counts - 1)
