"""Mean and standard deviation of the training images, and normalization by them."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError

# Same value as cifar-vgg. It matters only if all pixels are equal.
_EPSILON = 1e-7
_CHUNK = 2**20  # pixels per histogram update


def normalize(images: Any, mean: Any, divisor: Any) -> Any:
    """Returns (images - mean) / divisor in float32.

    Args:
      images: NumPy or JAX array [..., C] on the 0..255 scale, of any dtype.
      mean, divisor: float32 [C] or [1], see `Normalization.arrays`.
    """
    last = (1,) * (images.ndim - 1) + (-1,)
    return (images.astype(np.float32) - mean.reshape(last)) / divisor.reshape(last)


@dataclass(frozen=True)
class Normalization:
    """Statistics on the 0..255 scale: one number per channel, or a single one for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> Any:
        """Returns normalized images, float32, for a NumPy or JAX array [..., C]."""
        return normalize(images, *self.arrays())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arguments of `normalize`: mean and std + 1e-7, float32 [C] or [1]."""
        divisor = np.asarray(self.std) + _EPSILON
        return np.asarray(self.mean, np.float32), divisor.astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Returns a dict that JSON stores without loss."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> "Normalization":
        """Restores a normalization from the result of `to_json`."""
        return cls(mean=tuple(values["mean"]), std=tuple(values["std"]))


def statistics(images: np.ndarray | OnDisk, indices: np.ndarray, kind: str) -> Normalization:
    """Computes the statistics of `images[indices]`.

    The sums run over a histogram of the 256 pixel values, so they are exact and need no copy in
    floating point.

    Args:
      images: uint8 [N, H, W, C].
      indices: int [M].
      kind: "channel" (mean and population standard deviation per channel), "scalar" (one of each
        over all channels, as in cifar-vgg) or "unit" (divide by 255).

    Raises:
      UserError: for any other kind.
    """
    if kind == "unit":
        return Normalization(mean=(0.0,), std=(255.0,))
    if kind not in ("channel", "scalar"):
        raise UserError(f"data.normalization must be 'channel', 'scalar' or 'unit', got {kind!r}.")
    counts = np.zeros((images.shape[-1], 256), np.int64)
    count = max(1, _CHUNK // math.prod(images.shape[1:3]))
    for start in range(0, len(indices), count):
        chunk = images[indices[start : start + count]]
        for channel, histogram in enumerate(counts):
            histogram += np.bincount(chunk[..., channel].ravel(), minlength=256)
    if kind == "scalar":
        counts = counts.sum(axis=0, keepdims=True)
    values, total = np.arange(256.0), counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return Normalization(mean=tuple(mean.tolist()), std=tuple(np.sqrt(variance).tolist()))
