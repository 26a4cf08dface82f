"""A dataset: what every source gives and every pipeline takes."""

from dataclasses import dataclass

import numpy as np

from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError


@dataclass(frozen=True)
class Split:
    """Examples: `images` uint8 [N, H, W, 3] and `labels` int32 [N].

    The images are in memory, mapped into it, or `OnDisk`: to be indexed by rows.
    """

    images: np.ndarray | OnDisk
    labels: np.ndarray

    def __post_init__(self):
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(f"images are {self.images.dtype} {self.images.shape}, not NHWC")
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels are {self.labels.dtype} {self.labels.shape}, not int32 [N]")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Both splits and the names of the labels.

    superclass_of: int32 [classes], the superclass (CIFAR-100's coarse label) of every class, or
    None; fingerprint: SHA-256, hex, of all that the dataset holds.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    superclass_of: np.ndarray | None = None
    superclass_names: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self):
        for split in (self.train, self.test):
            wrong = (split.labels < 0) | (split.labels >= len(self.class_names))
            if wrong.any():
                first = int(wrong.argmax())
                raise UserError(
                    f"example {first} of dataset {self.name!r} has the label "
                    f"{split.labels[first]}, and there are {len(self.class_names)} classes, from 0"
                )


def superclasses(labels: np.ndarray, coarse_labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int32 [num_classes]: the one coarse label that the examples of each class have.

    Raises UserError where a class has no example or several coarse labels.
    """
    pairs = np.unique(np.stack([labels, coarse_labels]), axis=1)
    if not np.array_equal(pairs[0], np.arange(num_classes)):
        raise UserError(
            f"the coarse labels do not fit: {num_classes} classes have {pairs.shape[1]} "
            "different pairs of label and coarse label, where each class should have one"
        )
    return pairs[1].astype(np.int32)
