"""What has to be computed for a report: predictions, filters, augmented images."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar import config, data
from flaxcifar.augment import make_augment
from flaxcifar.checkpoint import read_best
from flaxcifar.confusion import Calibration, calibration, confusion_matrix, most_confused
from flaxcifar.data.dataset import Dataset
from flaxcifar.evaluate import check_dataset
from flaxcifar.experiment import make_network
from flaxcifar.optim import FROZEN, assign_groups
from flaxcifar.predict import Predictor
from flaxcifar.summary import Row, layer_rows

_GALLERY = 48  # pictures in each
_CONFUSED = 20  # pairs of classes


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture of the test split, and what was made of it."""

    label: str
    prediction: str
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures, uint8 [N, H, W, 3] as the dataset has them, and a tile for each."""

    images: np.ndarray
    tiles: list[Tile]


@dataclasses.dataclass(frozen=True)
class Details:
    """What the best checkpoint makes of the test split.

    Attributes:
      step: that of the checkpoint.
      matrix: int64 [classes, classes], rows are labels.
      confused: (label, prediction, examples), the commonest first.
      augmented: pictures, uint8 [H, W, 3]: a column for each of some training images, as it is and
        as the first epochs see it.
      filters: a picture of the kernels that see colours, None where the first layer has none.
    """

    step: int
    dataset: Dataset
    matrix: np.ndarray
    confused: list[tuple[int, int, int]]
    calibration: Calibration
    mistakes: Gallery
    random: Gallery
    augmented: np.ndarray
    filters: np.ndarray | None
    layers: list[Row]


def read_details(workdir: Path) -> Details:
    """Returns the details of a run's best checkpoint.

    Raises UserError where it has none, or its dataset is not there or no longer the same.
    """
    best, record = read_best(workdir)
    settings = config.from_json(record["config"])
    dataset = data.load(settings.data)
    check_dataset(dataset, record, workdir)
    probabilities = Predictor.from_workdir(str(workdir))(dataset.test.images)
    labels, predictions = dataset.test.labels, np.argmax(probabilities, axis=1)
    matrix = confusion_matrix(labels, predictions, len(dataset.class_names))
    sure = np.argsort(-np.max(probabilities, axis=1), kind="stable")
    mistakes = sure[(predictions != labels)[sure]][:_GALLERY]
    some = np.random.default_rng(0).permutation(len(labels))[:_GALLERY]

    def gallery(indices: np.ndarray) -> Gallery:
        tiles = [
            Tile(
                label=dataset.class_names[labels[n]],
                prediction=dataset.class_names[predictions[n]],
                probability=float(probabilities[n, predictions[n]]),
                right=bool(labels[n] == predictions[n]),
            )
            for n in indices
        ]
        return Gallery(dataset.test.images[indices], tiles)

    return Details(
        step=record["history"][-1]["step"],
        dataset=dataset,
        matrix=matrix,
        confused=most_confused(matrix, _CONFUSED),
        calibration=calibration(probabilities, labels),
        mistakes=gallery(mistakes),
        random=gallery(some),
        augmented=_augmented(settings, dataset),
        filters=_filters(best["params"]),
        layers=_layers(settings, dataset, best["params"]),
    )


def _augmented(settings: Any, dataset: Dataset, images: int = 12, epochs: int = 4) -> np.ndarray:
    index = np.linspace(0, len(dataset.train) - 1, images).astype(np.int32)
    originals = dataset.train.images[index]
    augment = make_augment(settings.augment, originals.shape[1:])
    rows = [originals]
    for epoch in range(epochs):
        seen = np.asarray(augment(originals, index, settings.seed, epoch))
        rows.append(np.clip(np.round(seen), 0, 255).astype(np.uint8))
    return sheet(np.concatenate(rows), images)


def _filters(params: dict[str, np.ndarray]) -> np.ndarray | None:
    """Returns the kernels, each stretched to the full range."""
    kernels = [x for x in params.values() if x.ndim == 4 and x.shape[2] == 3 and x.shape[0] > 1]
    if not kernels:
        return None
    filters = np.moveaxis(np.asarray(kernels[0], np.float32), 3, 0)
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    high = filters.max(axis=(1, 2, 3), keepdims=True)
    pixels = np.round(255 * (filters - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    # A border between neighbours, where images have a caption.
    bordered = np.pad(pixels, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=127)
    return sheet(bordered, 16)


def _layers(settings: Any, dataset: Dataset, params: dict[str, np.ndarray]) -> list[Row]:
    network, _ = make_network(settings, len(dataset.class_names))
    marks = [(p, FROZEN if group == FROZEN else 1.0) for p, group in settings.param_groups]
    groups = assign_groups(params, marks)
    frozen = {path for path, group in groups.items() if group == FROZEN}
    return layer_rows(network, dataset.train.images.shape[1:], frozen)


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Returns images, uint8 [N, H, W, 3], row by row in one picture, uint8 [h, w, 3]."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    filled = np.zeros((rows * columns, height, width, 3), np.uint8)
    filled[:count] = images
    whole = filled.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return whole.reshape(rows * height, columns * width, 3)
