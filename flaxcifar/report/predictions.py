"""Tables and drawings of what a network predicts: classes, confusion, calibration, galleries."""

from typing import Any, NamedTuple

import numpy as np

from flaxcifar.inference.analysis import Details, Gallery, Tile
from flaxcifar.inference.confusion import Calibration
from flaxcifar.inference.pictures import sheet
from flaxcifar.report.render import png

_MISTAKES = 2  # most frequent wrong predictions listed for each class


class Confused(NamedTuple):
    """`count` of the `total` images with this label got this prediction."""

    label: str
    prediction: str
    count: int  # type: ignore[assignment]  # hides tuple.count
    total: int


class ClassAccuracy(NamedTuple):
    """Accuracy on the images of a class, and (prediction, images) of its main mistakes."""

    name: str
    superclass: str | None
    images: int
    accuracy: float
    mistakes: list[tuple[str, int]]


class SuperclassAccuracy(NamedTuple):
    """Accuracy on the images of a superclass, counted by class and by superclass."""

    name: str
    images: int
    class_accuracy: float
    superclass_accuracy: float


class Bin(NamedTuple):
    """Predictions with a confidence from `low` to `high`: how many, how sure and how right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


class Film(NamedTuple):
    """A gallery as one wide image, in a data URI; each tile shows its part of it."""

    image: str
    tiles: list[Tile]


def confused(details: Details) -> list[Confused]:
    """Returns the most frequent confusions."""
    names, totals = details.dataset.class_names, details.matrix.sum(axis=1)
    return [
        Confused(names[label], names[prediction], count, int(totals[label]))
        for label, prediction, count in details.confused
    ]


def by_class(details: Details) -> list[ClassAccuracy]:
    """Returns the accuracy of each class."""
    names, groups = details.dataset.class_names, _superclasses(details)
    return [
        ClassAccuracy(
            name=names[label],
            superclass=groups[label] if groups else None,
            images=int(row.sum()),
            accuracy=row[label] / max(row.sum(), 1),
            mistakes=[
                (names[other], int(row[other]))
                for other in _by_count(row, without=label)[:_MISTAKES]
                if row[other]
            ],
        )
        for label, row in enumerate(details.matrix)
    ]


def _by_count(row: np.ndarray, without: int) -> list[int]:
    order = np.argsort(-row, kind="stable")
    return order[order != without].tolist()


def by_superclass(details: Details) -> list[SuperclassAccuracy]:
    """Returns the accuracy of each superclass, nothing if the dataset has none."""
    of = details.dataset.superclass_of
    if of is None:
        return []
    names = details.dataset.superclass_names
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (of[:, None], of[None, :]), details.matrix)
    right = np.bincount(of, np.diag(details.matrix), len(names))
    totals = matrix.sum(axis=1)
    filled = np.maximum(totals, 1)
    return [
        SuperclassAccuracy(name, int(totals[n]), right[n] / filled[n], matrix[n, n] / filled[n])
        for n, name in enumerate(names)
    ]


def _superclasses(details: Details) -> list[str] | None:
    """Returns the superclass of each class."""
    of = details.dataset.superclass_of
    return None if of is None else [details.dataset.superclass_names[n] for n in of]


def bins(found: Calibration) -> list[Bin]:
    """Returns the bins that hold predictions."""
    edges = np.linspace(0, 1, len(found.counts) + 1)
    rows = zip(edges, edges[1:], found.counts, found.confidence, found.accuracy, strict=False)
    return [Bin(*row) for row in rows if row[2]]


def film(gallery: Gallery) -> Film:
    """Returns the images of a gallery side by side."""
    if not gallery.tiles:
        return Film("", [])
    return Film(png(sheet(gallery.images, len(gallery.tiles))), gallery.tiles)


def drawn(details: Details) -> dict[str, Any]:
    """Returns the confusion matrix and the reliability diagram for report.js."""
    found = details.calibration
    return {
        "confusion": {
            "matrix": details.matrix.tolist(),
            "names": details.dataset.class_names,
            "superclasses": _superclasses(details),
            "order": _orders(details),
        },
        "calibration": {
            "counts": found.counts.tolist(),
            "confidence": found.confidence.tolist(),
            "accuracy": found.accuracy.tolist(),
        },
    }


def _orders(details: Details) -> dict[str, list[int]]:
    """Returns the orders in which the confusion matrix can list the classes."""
    accuracy = np.diag(details.matrix) / np.maximum(details.matrix.sum(axis=1), 1)
    orders = {"label": list(range(len(accuracy))), "accuracy": accuracy.argsort(kind="stable")}
    if details.dataset.superclass_of is not None:
        orders["superclass"] = details.dataset.superclass_of.argsort(kind="stable")
    return {name: list(map(int, order)) for name, order in orders.items()}
