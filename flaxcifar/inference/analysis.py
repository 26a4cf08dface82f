"""Analysis of a trained model for its report: confusion, calibration, galleries, layers."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np

from flaxcifar.data.dataset import Dataset, Split
from flaxcifar.inference import pictures
from flaxcifar.inference.confusion import Calibration, calibration, confusion_matrix, most_confused
from flaxcifar.inference.evaluate import examples
from flaxcifar.inference.trained import Trained
from flaxcifar.models.summary import Row
from flaxcifar.workdir.summary_file import read_summary
from flaxcifar.workdir.test_logits import read_test_logits

_GALLERY = 48  # images per gallery
_CONFUSED = 20  # pairs of classes
_CHUNK = 2**28  # bytes of images predicted at a time


@dataclasses.dataclass(frozen=True)
class Tile:
    """The prediction for one image of a gallery."""

    label: str
    prediction: str
    probability: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images, uint8 [N, H, W, 3], at most 64 x 64, and a tile for each."""

    images: np.ndarray
    tiles: list[Tile]


@dataclasses.dataclass(frozen=True)
class Details:
    """Analysis of the best checkpoint on one split.

    Attributes:
      step: training step of the checkpoint.
      split: "test", "validation" or "training".
      matrix: int64 [classes, classes], rows are labels.
      confused: (label, prediction, examples), the most frequent first.
      mistakes: the wrong predictions with the highest probability.
      random: images drawn at random, always the same ones.
      augmented: a picture, uint8 [H, W, 4]; see `pictures.augmented_images`.
      filters: a picture, uint8 [H, W, 4], or None; see `pictures.filters`.
      layers: see `model_summary`.
      totals: see `model_summary`.
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
    layers: list[Row]
    totals: dict[str, int]


def read_details(workdir: Path, under_way: bool = False) -> Details:
    """Analyzes the best checkpoint of a run on the test split.

    While the run is under way the test split stays unseen: the validation split is used instead,
    or the training split without one.

    Raises:
      UserError: if the run has no checkpoint, or its dataset is missing or has changed.
    """
    trained = Trained.from_workdir(workdir)
    dataset = trained.load_dataset()
    split, part, indices = _choose_split(trained, dataset, under_way)
    logits = None if under_way else _stored_logits(workdir, trained, dataset)
    if logits is None:
        probabilities = _predict(trained, part, indices)
    else:
        probabilities = np.asarray(jax.nn.softmax(logits))
    labels, predictions = part.labels[indices], np.argmax(probabilities, axis=1)
    matrix = confusion_matrix(labels, predictions, len(dataset.class_names))
    by_confidence = np.argsort(-np.max(probabilities, axis=1), kind="stable")
    mistakes = by_confidence[(predictions != labels)[by_confidence]][:_GALLERY]
    random = np.random.default_rng(0).permutation(len(labels))[:_GALLERY]

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
        return Gallery(pictures.bounded(part.images[indices[chosen]]), tiles)

    layers, totals = trained.layers()
    return Details(
        step=trained.step,
        split=split,
        dataset=dataset,
        matrix=matrix,
        confused=most_confused(matrix, _CONFUSED),
        calibration=calibration(probabilities, labels),
        mistakes=gallery(mistakes),
        random=gallery(random),
        augmented=pictures.augmented_images(dataset, trained.config),
        filters=pictures.filters(trained.variables[0]),
        layers=layers,
        totals=totals,
    )


def _choose_split(
    trained: Trained, dataset: Dataset, under_way: bool
) -> tuple[str, Split, np.ndarray]:
    for name in ("validation", "train") if under_way else ("test",):
        part, indices = examples(dataset, trained.config, name)
        if len(indices):
            break
    return {"train": "training"}.get(name, name), part, indices


def _stored_logits(workdir: Path, trained: Trained, dataset: Dataset) -> np.ndarray | None:
    """Returns the logits that the run kept of the test split, None if it has trained on since."""
    summary, logits = read_summary(workdir), read_test_logits(workdir)
    if summary is None or summary["evaluated_step"] != trained.step or logits is None:
        return None
    return logits if logits.shape == (len(dataset.test), len(trained.class_names)) else None


def _predict(trained: Trained, part: Split, indices: np.ndarray) -> np.ndarray:
    """Computes probabilities chunk by chunk, because the images may be larger than memory."""
    count = -(-len(indices) * math.prod(part.images.shape[1:]) // _CHUNK)
    chunks = np.array_split(indices, max(1, count))
    return np.concatenate([trained.predict_proba(part.images[chunk]) for chunk in chunks])
