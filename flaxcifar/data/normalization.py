"""Mean and standard deviation of the training images."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flaxcifar.errors import UserError

# As in cifar-vgg; it matters only where all pixels are equal.
_EPSILON = 1e-7
_CHUNK = 2**20  # pixels that are counted at a time


@dataclass(frozen=True)
class Normalization:
    """Subtracts `mean` and divides by `std`, on the 0..255 scale: one number or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> Any:
        """Returns (images - mean) / (std + 1e-7) for a NumPy or JAX array [..., C], at float32."""
        mean, divisor = self.arrays()
        return (images - mean) / divisor

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what is subtracted and what divides, float32 [C] or [1]."""
        divisor = np.asarray(self.std) + _EPSILON
        return np.asarray(self.mean, np.float32), divisor.astype(np.float32)

    def to_json(self) -> dict[str, list[float]]:
        """Returns a dict that JSON can hold without loss."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> "Normalization":
        """Returns what `to_json` was called on."""
        return cls(mean=tuple(values["mean"]), std=tuple(values["std"]))


def statistics(images: np.ndarray, indices: np.ndarray, kind: str) -> Normalization:
    """Returns the statistics of `images[indices]`, uint8 [N, H, W, C].

    kind: "channel" (one mean and deviation a channel), "scalar" (one over everything, as cifar-vgg
    does) or "unit" (no statistics: divide by 255). The deviation is the population's. The sums run
    over a histogram of the 256 values, so they are exact and need no copy in floating point.
    """
    if kind == "unit":
        return Normalization(mean=(0.0,), std=(255.0,))
    if kind not in ("channel", "scalar"):
        raise UserError(f"unknown normalization {kind!r} (there are: channel, scalar, unit)")
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
