"""Datasets: what sources return and pipelines read."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flaxcifar.data.on_disk import OnDisk
from flaxcifar.data.split import split_validation
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
      validation_examples: the number of training examples, the last ones, that are the validation
        split; 0 if a share of the training split is held out.
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
    validation_examples: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, count in Counter(self.class_names).items():
            if count > 1:
                raise UserError(
                    f"dataset {self.name!r}: the names of its classes must differ, got {count} "
                    f"classes {name!r}."
                )
        for name, split in (("train", self.train), ("test", self.test)):
            owner = f"dataset {self.name!r}"
            check_labels(split.labels, len(self.class_names), owner, f"{name} example")

    def hold_out(self, percent: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions of training and validation examples in the training split.

        Args:
          percent: of each class; see `split_validation`. Unused if the dataset has a validation
            split of its own.
          seed: of the choice.
        """
        if not self.validation_examples:
            return split_validation(self.train.labels, percent, seed)
        every = np.arange(len(self.train), dtype=np.int32)
        return every[: -self.validation_examples], every[-self.validation_examples :]

    def classes_with(self, examples: int) -> list[str]:
        """Returns the names of the classes that have exactly `examples` training examples."""
        counts = np.bincount(self.train.labels, minlength=len(self.class_names))
        return [self.class_names[label] for label in np.flatnonzero(counts == examples)]


def check_labels(labels: np.ndarray, classes: int, owner: str, example: str) -> None:
    """Raises UserError if a label is out of range; `owner` and `example` name it in the message."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(
            f"{owner}: labels must be from 0 to {classes - 1}, got {labels[first]} for {example} "
            f"{first} ({np.count_nonzero(wrong):,} of {len(labels):,} are out of range)."
        )


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
