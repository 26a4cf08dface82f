"""Pictures of a run: contact sheets of images, augmentation and filters."""

from typing import Any

import jax
import numpy as np

from flaxcifar.data.augment import make_augment
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.images import resize_images
from flaxcifar.models.network import Arrays

_LARGEST = 64  # pixels per side; keeps the report small whatever the image size


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Arranges images, uint8 [N, H, W, C], row by row in one picture, uint8 [h, w, C]."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    filled = np.zeros((rows * columns, height, width, channels), np.uint8)
    filled[:count] = images
    whole = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return whole.reshape(rows * height, columns * width, channels)


def bounded(images: np.ndarray) -> np.ndarray:
    """Returns images, uint8 [N, H, W, 3], resized to 64 x 64 if they are larger."""
    return resize_images(images, min(images.shape[1], _LARGEST))


def augmented_images(
    dataset: Dataset, config: Any, columns: int = 12, epochs: int = 4
) -> np.ndarray:
    """Shows training images, one per column: the original, then as the first epochs see it.

    Returns:
      A picture, uint8 [h, w, 4].
    """
    train, _ = dataset.hold_out(config.data.validation_percent, config.seed)
    # Evenly spaced, because the split may be sorted by class.
    index = train[np.linspace(0, len(train) - 1, columns).astype(np.int32)]
    originals = dataset.train.images[index]
    augment = jax.jit(make_augment(config.augment, originals.shape[1:]))
    rows = [originals]
    for epoch in range(epochs):
        seen = np.asarray(augment(originals, index, np.uint32(config.seed), np.int32(epoch)))
        rows.append(np.clip(np.round(seen), 0, 255).astype(np.uint8))
    return sheet(_spaced(bounded(np.concatenate(rows))), columns)


def filters(params: Arrays) -> np.ndarray | None:
    """Shows the first convolution on RGB, each kernel stretched to the full range.

    Returns:
      A picture, uint8 [h, w, 4], or None without such a convolution.
    """
    found = [x for x in params.values() if x.ndim == 4 and x.shape[2] == 3 and x.shape[0] > 1]
    if not found:
        return None
    kernels = np.moveaxis(np.asarray(found[0], np.float32), 3, 0)
    low = kernels.min(axis=(1, 2, 3), keepdims=True)
    high = kernels.max(axis=(1, 2, 3), keepdims=True)
    pixels = np.round(255 * (kernels - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    return sheet(_spaced(pixels), 16)


def _spaced(images: np.ndarray) -> np.ndarray:
    """Adds an alpha channel, and a transparent line at the right and bottom of each image."""
    opaque = np.insert(images, 3, 255, axis=3)
    return np.pad(opaque, ((0, 0), (0, 1), (0, 1), (0, 0)))
