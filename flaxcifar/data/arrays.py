"""Images and labels as arrays of the user's own: checks, and conversion to uint8."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from flaxcifar.errors import UserError

_CHUNK = 4096  # images converted at a time
# Largest distance from a whole number of 256 steps that is taken for float32's rounding.
_ROUNDING = 1e-3


def as_images(images: Any, name: str = "images") -> np.ndarray:
    """Returns images as uint8 [N, H, W, 3].

    Args:
      images: [N, H, W, 3], or grey [N, H, W] or [N, H, W, 1]. Integers must be from 0 to 255.
        Floats must hold 256 steps exactly: from 0 to 1, from -1 to 1, or from 0 to 255. Floats that
        are all 0 or 1 are black and white.
      name: of the argument, for messages.

    Raises:
      UserError: the shape or dtype is not one of these, or conversion would lose precision.
    """
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        hint = " (move the channels to the end: np.moveaxis(images, 1, -1))"
        first = array.ndim == 4 and array.shape[1] in (1, 3)
        raise UserError(
            f"{name} must be [N, H, W, 3], or grey [N, H, W], got {list(np.shape(images))}"
            f"{hint if first else ''}"
        )
    if array.dtype != np.uint8:
        array = _converted(array, name)
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def as_labels(labels: Any, count: int, name: str = "labels", of: str = "images") -> np.ndarray:
    """Returns `count` labels as int32 [N]; accepts integers [N] and [N, 1].

    `name` and `of`, what has the labels, are for messages.

    Raises:
      UserError: they are something else. The message says how to convert them.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        raise UserError(
            f"{name} must be integers [N], got {list(array.shape)}: convert one-hot labels with "
            "np.argmax(labels, axis=1)"
        )
    if array.dtype.kind in "USO":
        raise UserError(
            f"{name} must be integers, got {array.dtype}: class_names, labels = "
            "np.unique(labels, return_inverse=True)"
        )
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise UserError(
            f"{name} must be integers, one for each of the {count} {of}, got {array.dtype} "
            f"{list(array.shape)}"
        )
    return array.astype(np.int32)


def fingerprint(*arrays: Any) -> str:
    """Returns the SHA-256, hex, of shapes, dtypes and content of arrays or None."""
    result = hashlib.sha256()
    for array in arrays:
        if array is None:
            result.update(b"none")
        else:
            result.update(f"{array.dtype} {array.shape}".encode())
            result.update(np.ascontiguousarray(array).data)
    return result.hexdigest()


def _chunks(array: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, len(array), _CHUNK))


def _converted(array: np.ndarray, name: str) -> np.ndarray:
    """Returns numbers of another dtype as uint8."""
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} must be integers or floats, got {array.dtype}")
    if not array.size:
        return array.astype(np.uint8)
    low = float(min(np.min(array[part]) for part in _chunks(array)))
    high = float(max(np.max(array[part]) for part in _chunks(array)))
    scale, shift = _scale(array.dtype, low, high)
    result = np.empty(array.shape, np.uint8)
    for part in _chunks(array):
        exact = (array[part].astype(np.float64) + shift) * scale
        rounded = np.rint(exact)
        # Written so that NaN is refused, too.
        if not (
            0 <= low + shift and rounded.max() <= 255 and np.abs(exact - rounded).max() < _ROUNDING
        ):
            raise UserError(
                f"{name} must be uint8, or hold 256 steps exactly: integers from 0 to 255, or "
                f"floats from 0 to 1, -1 to 1 or 0 to 255, got {array.dtype} from {low:.4g} to "
                f"{high:.4g}: pass the pixels before normalization, or round them yourself"
            )
        result[part] = rounded
    return result


def _scale(dtype: np.dtype, low: float, high: float) -> tuple[float, float]:
    """Returns the factor, and what is added before, that make 256 steps of numbers."""
    if dtype.kind != "f" or high > 1:
        return 1.0, 0.0
    return (255.0, 0.0) if low >= 0 else (127.5, 1.0)
