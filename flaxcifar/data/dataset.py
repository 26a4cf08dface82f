"""Datasets: what sources return and pipelines read."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flaxcifar.data.on_disk import OnDisk
from flaxcifar.errors import UserError


@dataclass(frozen=True)
class Split:
    """The examples of a split.

    Attributes:
      images: uint8 [N, H, W, 3]: an array, memory-mapped or not, or `OnDisk`. Index it by rows.
      labels: int32 [N].
    """

    images: np.ndarray | OnDisk
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(
                f"images must be uint8 [N, H, W, 3], got {self.images.dtype} {self.images.shape}."
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int32 [N], one per image, got {self.labels.dtype} "
                f"{self.labels.shape}."
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training and a test split with the names of their classes.

    Attributes:
      superclass_of: int32 [classes], the superclass (coarse label in CIFAR-100) of each class, or
        None.
      fingerprint: SHA-256, hex, of the whole content.

    Raises:
      UserError: a label is out of range, or two classes have the same name.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    superclass_of: np.ndarray | None = None
    superclass_names: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, count in Counter(self.class_names).items():
            if count > 1:
                raise UserError(
                    f"dataset {self.name!r}: the names of its classes must differ, got {count} "
                    f"classes {name!r}."
                )
        for name, split in (("train", self.train), ("test", self.test)):
            wrong = (split.labels < 0) | (split.labels >= len(self.class_names))
            if wrong.any():
                first = int(wrong.argmax())
                raise UserError(
                    f"dataset {self.name!r}: labels must be from 0 to {len(self.class_names) - 1}, "
                    f"got {split.labels[first]} for {name} example {first} "
                    f"({np.count_nonzero(wrong):,} of {len(split):,} are out of range)."
                )

    def classes_with(self, examples: int) -> list[str]:
        """Returns the names of the classes that have exactly `examples` training examples."""
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        return [self.class_names[label] for label in np.flatnonzero(counts == examples)]


def superclasses(labels: np.ndarray, coarse_labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the superclass of each class, int32 [num_classes].

    Args:
      labels, coarse_labels: integers [N], class and superclass of each example; labels are below
        `num_classes`.

    Raises:
      UserError: a class has no examples or several coarse labels.
    """
    pairs = np.unique(np.stack([labels, coarse_labels]), axis=1)
    wrong = np.bincount(pairs[0], minlength=num_classes) != 1
    if wrong.any():
        first = int(wrong.argmax())
        found = pairs[1, pairs[0] == first].tolist()
        raise UserError(
            f"each of the {num_classes} classes must have exactly one coarse label, got "
            f"{found or 'no examples'} for class {first}."
        )
    return pairs[1].astype(np.int32)
