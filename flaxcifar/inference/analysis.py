"""What has to be computed for a report: predictions, filters, augmented images."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from flaxcifar.data.augment import make_augment
from flaxcifar.data.dataset import Dataset
from flaxcifar.data.images import resize_images
from flaxcifar.data.split import split_validation
from flaxcifar.inference.confusion import Calibration, calibration, confusion_matrix, most_confused
from flaxcifar.inference.predict import Predictor
from flaxcifar.models.summary import Row, layer_rows, model_summary, state
from flaxcifar.optim.param_groups import FROZEN, assign_groups
from flaxcifar.training.evaluation import read_trained
from flaxcifar.training.networks import make_network

_GALLERY = 48  # pictures in each
_LARGEST = 64  # pixels of a picture's side: the page stays small whatever the images are
_CONFUSED = 20  # pairs of classes


@dataclasses.dataclass(frozen=True)
class Tile:
    """What was made of a picture."""

    label: str
    prediction: str
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures, uint8 [N, H, W, 3] as the dataset has them, and a tile for each.

    Only those larger than 64 x 64 are made smaller.
    """

    images: np.ndarray
    tiles: list[Tile]


@dataclasses.dataclass(frozen=True)
class Details:
    """What the best checkpoint makes of a split.

    Attributes:
      step: that of the checkpoint.
      split: "test", "validation" or "training".
      matrix: int64 [classes, classes], rows are labels.
      confused: (label, prediction, examples), the commonest first.
      augmented: pictures, uint8 [H, W, 4]: a column for each of some training images, as it is and
        as the first epochs see it.
      filters: a picture, uint8 [H, W, 4], of the kernels that see colours, None where the first
        layer has none.
      layers: with each whether it was trained.
    """

    step: int
    split: str
    dataset: Dataset
    matrix: np.ndarray
    confused: list[tuple[int, int, int]]
    calibration: Calibration
    mistakes: Gallery
    random: Gallery
    augmented: np.ndarray
    filters: np.ndarray | None
    layers: list[tuple[Row, str]]
    totals: dict[str, int]


def read_details(workdir: Path, under_way: bool = False) -> Details:
    """Returns the details of a run's best checkpoint.

    They are of the test split. While the run is under way that stays unseen, and they are of the
    validation split, or the training split where there is none.

    Raises UserError where it has no checkpoint, or its dataset is not there or no longer the same.
    """
    best, record, settings, dataset = read_trained(workdir)
    train, validation = split_validation(
        dataset.train.labels, settings.data.validation_percent, settings.seed
    )
    if not under_way:
        split, part, indices = "test", dataset.test, np.arange(len(dataset.test))
    elif len(validation):
        split, part, indices = "validation", dataset.train, validation
    else:
        split, part, indices = "training", dataset.train, train
    predictor = Predictor.from_workdir(str(workdir))
    # As many at a time as take 256 MB.
    count = -(-len(indices) * math.prod(part.images.shape[1:]) // 2**28)
    chunks = np.array_split(indices, max(1, count))
    probabilities = np.concatenate([predictor(part.images[chunk]) for chunk in chunks])
    labels, predictions = part.labels[indices], np.argmax(probabilities, axis=1)
    matrix = confusion_matrix(labels, predictions, len(dataset.class_names))
    sure = np.argsort(-np.max(probabilities, axis=1), kind="stable")
    mistakes = sure[(predictions != labels)[sure]][:_GALLERY]
    some = np.random.default_rng(0).permutation(len(labels))[:_GALLERY]

    def gallery(chosen: np.ndarray) -> Gallery:
        tiles = [
            Tile(
                label=dataset.class_names[labels[n]],
                prediction=dataset.class_names[predictions[n]],
                probability=float(probabilities[n, predictions[n]]),
                right=bool(labels[n] == predictions[n]),
            )
            for n in chosen
        ]
        return Gallery(_bounded(part.images[indices[chosen]]), tiles)

    layers, totals = _model(settings, dataset, best["params"])
    return Details(
        step=record["history"][-1]["step"],
        split=split,
        dataset=dataset,
        matrix=matrix,
        confused=most_confused(matrix, _CONFUSED),
        calibration=calibration(probabilities, labels),
        mistakes=gallery(mistakes),
        random=gallery(some),
        augmented=_augmented(settings, dataset, train),
        filters=_filters(best["params"]),
        layers=layers,
        totals=totals,
    )


def _augmented(
    settings: Any, dataset: Dataset, train: np.ndarray, images: int = 12, epochs: int = 4
) -> np.ndarray:
    # Evenly over the split, in which the classes may come in order.
    index = train[np.linspace(0, len(train) - 1, images).astype(int)]
    originals = dataset.train.images[index]
    augment = make_augment(settings.augment, originals.shape[1:])
    rows = [originals]
    for epoch in range(epochs):
        seen = np.asarray(augment(originals, index, settings.seed, epoch))
        rows.append(np.clip(np.round(seen), 0, 255).astype(np.uint8))
    return sheet(_spaced(_bounded(np.concatenate(rows))), images)


def _filters(params: dict[str, np.ndarray]) -> np.ndarray | None:
    """Returns the kernels, each stretched to the full range."""
    kernels = [x for x in params.values() if x.ndim == 4 and x.shape[2] == 3 and x.shape[0] > 1]
    if not kernels:
        return None
    filters = np.moveaxis(np.asarray(kernels[0], np.float32), 3, 0)
    low = filters.min(axis=(1, 2, 3), keepdims=True)
    high = filters.max(axis=(1, 2, 3), keepdims=True)
    pixels = np.round(255 * (filters - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    return sheet(_spaced(pixels), 16)


def _spaced(images: np.ndarray) -> np.ndarray:
    """Returns images with an opacity and, at their right and bottom, a transparent line."""
    opaque = np.insert(images, 3, 255, axis=3)
    return np.pad(opaque, ((0, 0), (0, 1), (0, 1), (0, 0)))


def _model(
    settings: Any, dataset: Dataset, params: dict[str, np.ndarray]
) -> tuple[list[tuple[Row, str]], dict[str, int]]:
    """Returns the layers and the totals as the run's own summary has them."""
    network, _ = make_network(settings, len(dataset.class_names))
    marks = [(p, FROZEN if group == FROZEN else 1.0) for p, group in settings.param_groups]
    groups = assign_groups(params, marks)
    frozen = {path for path, group in groups.items() if group == FROZEN}
    arguments = (network, dataset.train.images.shape[1:], frozen)
    layers = [(row, state(row, params, frozen)) for row in layer_rows(*arguments)]
    return layers, model_summary(*arguments)[1]


def _bounded(images: np.ndarray) -> np.ndarray:
    return resize_images(images, min(images.shape[1], _LARGEST))


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Returns images, uint8 [N, H, W, C], row by row in one picture, uint8 [h, w, C]."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    filled = np.zeros((rows * columns, height, width, channels), np.uint8)
    filled[:count] = images
    whole = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return whole.reshape(rows * height, columns * width, channels)
