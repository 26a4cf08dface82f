"""Reads prepared datasets of TensorFlow Datasets, without a network."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar import console
from flaxcifar.data.dataset import Dataset, Split, superclasses
from flaxcifar.data.source import Empty
from flaxcifar.data.tensorflow import failure, import_tensorflow, import_tfds
from flaxcifar.errors import UserError

_BATCH = 512


def read_prepared(name: str, root: Path, image_size: int, empty: Empty) -> Dataset:
    """Returns the split "train", and "test" or else "validation" as the test split.

    Args:
      root: the folder of the prepared dataset.
      empty: allocates the images.

    Raises:
      UserError: a labelled split or the feature "image" or "label" is missing, or files are
        damaged.
    """
    tfds = import_tfds()
    with _reading(root):
        builder = tfds.builder_from_directory(root)
        features, splits = dict(builder.info.features.items()), tuple(builder.info.splits)
    _check_features(name, features, tfds)
    read = {}
    for split in ("train", "test", "validation"):
        if split in splits:
            with _reading(root):
                read[split] = _read(builder, split, image_size, empty)
    # TFDS labels every example of an unlabelled split with -1.
    labelled = [split for split, (s, _) in read.items() if (s.labels != -1).any()]
    if len(labelled) < 2 or labelled[0] != "train":
        raise UserError(
            f"{name} must have a labelled train split and a labelled test or validation split, got "
            f"the splits {', '.join(splits)}."
        )
    (train, coarse), (test, _) = read["train"], read[labelled[1]]
    dataset = Dataset(name, train, test, tuple(features["label"].names))
    if coarse is None:
        return dataset
    return dataclasses.replace(
        dataset,
        superclass_of=superclasses(train.labels, coarse, len(dataset.class_names)),
        superclass_names=tuple(features["coarse_label"].names),
    )


@contextlib.contextmanager
def _reading(root: Path) -> Iterator[None]:
    """Context manager: turns any error that damaged files raise into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"the prepared dataset in {root} cannot be read ({failure(error)}): prepare it again"
        ) from error


def _check_features(name: str, features: dict[str, Any], tfds: Any) -> None:
    image, label = features.get("image"), features.get("label")
    classified = isinstance(label, tfds.features.ClassLabel)
    if not classified or not isinstance(image, tfds.features.Image):
        raise UserError(
            f"{name} is not an image classification dataset: it must have the features 'image' and "
            f"'label', got {', '.join(features)}."
        )
    if image.np_dtype != np.uint8 or image.shape[2] not in (1, 3):
        raise UserError(
            f"the images of {name} must be uint8 with 1 or 3 channels, got "
            f"{np.dtype(image.np_dtype)} {image.shape}."
        )


def _read(
    builder: Any, name: str, image_size: int, empty: Empty
) -> tuple[Split, np.ndarray | None]:
    """Returns a split in its stored order, and its coarse labels int32 [N] or None."""
    tf = import_tensorflow()
    keys = [key for key in ("label", "coarse_label") if key in builder.info.features]

    def convert(example):
        image = example["image"]
        if image.shape[:2] != (image_size, image_size):
            image = tf.image.resize(image, (image_size, image_size), antialias=True)
            image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return {"image": image} | {key: tf.cast(example[key], tf.int32) for key in keys}

    count = builder.info.splits[name].num_examples
    images = empty((count, image_size, image_size, 3))
    labels = np.empty((len(keys), count), np.int32)
    read = 0
    # TFDS raises an error if the files contain another number of examples.
    dataset = builder.as_dataset(split=name, shuffle_files=False)
    dataset = dataset.map(convert, num_parallel_calls=os.cpu_count()).batch(_BATCH).prefetch(2)
    with console.working(f"{name} images", count) as advance:
        for batch in dataset.as_numpy_iterator():
            rows = slice(read, read + len(batch["image"]))
            images[rows] = batch["image"]  # a single channel is broadcast to three
            labels[:, rows] = [batch[key] for key in keys]
            read = rows.stop
            advance(len(batch["image"]))
    return Split(images, labels[0]), labels[1] if len(keys) == 2 else None
