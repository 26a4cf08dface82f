"""Matplotlib figures of a run, for notebooks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_NAMED = 30  # most classes whose names fit beside the confusion matrix


def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws loss and accuracy over epochs, training and validation.

    Args:
      history: the rows of metrics.jsonl.
    """
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "validation"):
            values = [row.get(f"{split}_{metric}", np.nan) for row in history]
            if not np.all(np.isnan(values)):
                axes.plot(epochs, values, label=split)
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        if history:
            axes.legend()
    return figure


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix as shares of each class.

    Args:
      matrix: integers [classes, classes], rows are labels.
      class_names: written beside the rows if there are few.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the class")
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if len(class_names) <= _NAMED:
        places = range(len(class_names))
        axes.set_xticks(places, class_names, rotation=90)
        axes.set_yticks(places, class_names)
    return figure
