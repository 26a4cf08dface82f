"""A folder of images with one sub-folder per class.

Either `DIR/train/<class>/...` and `DIR/test/<class>/...`, or only `DIR/<class>/...`: then a fifth
of every class is held out as the test split, the same in every run.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flaxcifar import console
from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.data.images import read_images
from flaxcifar.data.source import Empty, Source
from flaxcifar.data.sources import SOURCES
from flaxcifar.data.split import split_validation
from flaxcifar.errors import UserError

_TEST_PERCENT = 20.0
# Independent of the seed in the config: the test split must not change between runs.
_TEST_SEED = 0
_NO_IMAGES = {"thumbs.db", "desktop.ini"}


@SOURCES.register
def folder(directory: str, image_size: int) -> Source:
    """Finds the images: all regular files except hidden ones and those of file managers.

    Pipes, devices and links to them are reported and skipped.
    """
    root = Path(directory).expanduser()
    if not directory or not root.is_dir():
        raise UserError(
            "data.dir must be a folder of images with one sub-folder per class for "
            f"data.name=folder, got {directory!r}."
        )
    name = root.resolve().name
    recipe = f"folder, {image_size} pixels"
    if _sub_folders(root / "train"):
        train, test = _classes(root / "train"), _classes(root / "test")
        if train.keys() != test.keys():
            raise UserError(
                f"{root / 'train'} and {root / 'test'} must have the same classes; only one "
                f"has {', '.join(sorted(train.keys() ^ test.keys()))}."
            )
        files = [f"train/{path}" for paths in train.values() for path in paths]
        files += [f"test/{path}" for paths in test.values() for path in paths]
        counts = [len(paths) for paths in (*train.values(), *test.values())]
        labels = np.repeat(np.tile(np.arange(len(train)), 2), counts)
        first_test = sum(counts[: len(train)])
        rows = np.arange(len(files))
        splits = rows[:first_test], rows[first_test:]
    else:
        train = _classes(root)
        files = [path for paths in train.values() for path in paths]
        labels = np.repeat(np.arange(len(train)), [len(paths) for paths in train.values()])
        splits = split_validation(labels, _TEST_PERCENT, _TEST_SEED)
        if len(splits[1]) == 0:
            raise UserError(
                f"{root} has too few images ({len(files)}) to hold out a test split: add more"
            )
    decode = partial(_decode, name, root, files, labels, splits, tuple(train), image_size)
    return Source(name, recipe, decode, root, tuple(files))


def _decode(
    name: str,
    root: Path,
    files: Sequence[str],
    labels: np.ndarray,
    splits: Sequence[np.ndarray],
    class_names: tuple[str, ...],
    image_size: int,
    empty: Empty,
) -> Dataset:
    read = []
    for rows in splits:
        images = empty((len(rows), image_size, image_size, 3))
        read_images([root / files[row] for row in rows], images)
        read.append(Split(images, labels[rows].astype(np.int32)))
    return Dataset(name, read[0], read[1], class_names)


def _classes(root: Path) -> dict[str, list[str]]:
    """Returns the sorted files of each class, relative to `root`, by sorted class."""
    classes = {name: _files(root, name) for name in _sub_folders(root)}
    if len(classes) < 2:
        raise UserError(
            f"{root} must have a sub-folder for each of at least two classes, got {len(classes)}."
        )
    for name, files in classes.items():
        if not files:
            raise UserError(f"the class folder {root / name} has no images: add some or remove it")
    return classes


def _sub_folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _files(root: Path, name: str) -> list[str]:
    found = []
    for folder, _, names in os.walk(root / name):
        for file in names:
            path = Path(folder, file)
            if file[0] == "." or file.lower() in _NO_IMAGES:
                continue
            if path.is_file():
                found.append(path.relative_to(root).as_posix())
            else:
                console.say(f"{path} is not a regular file: skipped")
    return sorted(found)
